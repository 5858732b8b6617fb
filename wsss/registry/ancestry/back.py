"""What a run was made from: its steps and who computed them, settings, data, code and machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsss.errors import UserError, unknown
from wsss.interface import STAGES
from wsss.registry.ancestry.boxes import DATA, LABELS, Box, Layer
from wsss.run.plan import Plan, make_plan
from wsss.settings import as_text
from wsss.tracking import names
from wsss.tracking.descent import DataUsed, Look, StepMade
from wsss.tracking.query import RunRecord

_TITLES = {
    "segment": "Model: the segmentation network and its predictions",
    "refine": "Label maps: from score maps to labels",
    "localize": "Score maps and the network that gives them",
}


def made_from(look: Look, run: RunRecord, made: Sequence[StepMade], *, labels: bool = True) -> list[Layer]:
    """What a run was made from, the last step first, as far as the steps are among those."""
    used = look.data_used(run.id)
    makers = {step: look.computed_by(step) for step in made if step.reused}
    known = look.runs_of({maker for maker in makers.values() if maker})
    layers = []
    for stage in reversed(STAGES[:-1]):
        own = [step for step in reversed(made) if step.key.startswith(f"{stage}.")]
        boxes = [_step_box(step, known.get(makers.get(step, ""))) for step in own]
        maps = next((each for each in used if each.name == names.LABELS), None)
        if stage == "refine" and boxes and labels and maps:
            facts = data_facts(maps) | {"list of files": f"artifact {names.dvc_manifest_file(names.LABELS)}"}
            boxes.insert(0, Box(LABELS, f"Label maps {maps.digest[:8]}", maps.md5 or maps.digest, facts))
        if boxes:
            layers.append(Layer(_TITLES[stage], boxes))
    layers.append(Layer("Settings", [_settings_box(run)]))
    data = [each for each in used if each.name != names.LABELS]
    layers.append(Layer("Data", [Box(DATA, f"Dataset {each.name}", each.md5, data_facts(each)) for each in data]))
    dirty = run.tags.get(names.GIT_DIRTY) == "true"
    commit = run.tags.get(names.GIT_COMMIT, "")
    facts = {
        "commit": f"{commit}{', with changes that were not committed' if dirty else ''}" if commit else "none",
        "version": run.tags.get(names.VERSION, ""),
        "machine": ", ".join(filter(None, (run.tags.get(names.HOST, ""), _cores(run)))),
        "command": run.tags.get(names.COMMAND, ""),
    }
    layers.append(Layer("Code and machine", [Box("code", "Code", facts={k: v for k, v in facts.items() if v})]))
    return layers


def in_order(run: RunRecord, made: Sequence[StepMade]) -> list[StepMade]:
    """The steps as the method runs them."""
    plan = _plan(run, _stages(run))
    order = [planned.key for planned in plan.steps] if plan else []
    return sorted(made, key=lambda step: order.index(step.key) if step.key in order else len(order))


def needed(run: RunRecord, what: str) -> set[str]:
    """The keys of the steps that a drawn thing was made by.

    Raises:
        UserError: the run's method makes no such thing.
    """
    plan = _plan(run, _stages(run))
    steps = {planned.key: planned for planned in plan.steps} if plan else {}
    drawn = {
        name: key for key, p in steps.items() for name in (*p.step.outputs, *(pic.name for pic in p.step.pictures))
    }
    if what not in drawn:
        raise unknown(f"thing that {run.method} draws", what, drawn)
    needed: set[str] = set()
    waiting = [drawn[what]]
    while waiting:
        key = waiting.pop()
        needed.add(key)
        waiting += [each for each in steps[key].inputs.values() if each not in needed]
    return needed


def data_facts(used: DataUsed) -> dict[str, str]:
    """What is known of data or label maps, for people."""
    size = f"{int(used.size) / 1e6:.1f} MB" if used.size.isdecimal() else ""
    facts = {
        "version (DVC)": used.md5 or "none; DVC does not track it",
        "digest": "" if used.md5 else used.digest,
        "files": ", ".join(filter(None, (used.files, size))),
        "images": ", ".join(f"{split} {count}" for split, count in used.images.items()),
        "lay in": used.source,
    }
    return {key: value for key, value in facts.items() if value}


def _step_box(step: StepMade, maker: RunRecord | None) -> Box:
    facts = {"fingerprint": step.fingerprint, "how": "reused" if step.reused else "computed by this run"}
    if step.reused and maker is None:
        facts["how"] = "reused; what computed it is a search, or a run that is gone"
    if step.seconds is not None:
        facts["took"] = f"{step.seconds:.1f} s"
    return Box("step", step.key, facts=facts, runs={"computed by": [maker]} if maker else {})


def _settings_box(run: RunRecord) -> Box:
    """All settings; those that differ from the preset first."""
    plan = _plan(run, {})
    first = {key: as_text(value) for key, value in plan.settings.items()} if plan else {}
    changed = {k: f"{v} (preset: {first[k]})" for k, v in run.params.items() if k in first and first[k] != v}
    others = {key: value for key, value in run.params.items() if key not in changed}
    title = f"{len(run.params)} settings, " + (f"{len(changed)} unlike preset {run.preset}" if plan else "all")
    return Box("settings", title, facts=changed, folded=others)


def _plan(run: RunRecord, overrides: Mapping[str, str]) -> Plan | None:
    """The steps as the method has them today; None where it has no such method, preset or setting any more."""
    try:
        return make_plan(run.method, run.preset, overrides)
    except UserError:
        return None


def _stages(run: RunRecord) -> dict[str, str]:
    return {key: value for key, value in run.params.items() if key in {f"{stage}.name" for stage in STAGES}}


def _cores(run: RunRecord) -> str:
    cores = run.tags.get(names.CORES, "")
    return f"{cores} cores" if cores else ""
