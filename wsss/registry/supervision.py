"""What the models of a registered name may have seen beyond tags."""

from __future__ import annotations

from wsss.commands import command
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.registry.models import ModelVersion, default_name, find_version, is_direct, supervision_of_run
from wsss.registry.rules import TAGS, Rule

_MASKS = "masks"


def allowed_supervision(version: ModelVersion, name: str, champion: str, dataset: Dataset, rule: Rule) -> str:
    """What a candidate saw, where the name allows it.

    The rule may list what is allowed. Else a default name (`wsss-DATASET`, `wsss-DATASET-masks`) says it itself; any
    other is held to its champion, and its first model may have seen all but masks: the fully supervised bound is a
    candidate for its own name alone.

    Args:
        version: the candidate.
        name: the registered model, and its rule.
        champion: its champion's number; empty without one.
        dataset: of the comparison.
        rule: of the name.

    Raises:
        UserError: it saw something else, or nobody knows what.
    """
    seen = supervision_of_run(version.run) if version.run else None
    if seen is None:
        raise UserError("it is not known what its run saw beyond tags")
    words, plain = ", ".join([TAGS, *sorted(seen)]), default_name(dataset.name)
    proper = default_name(dataset.name, seen, direct=is_direct(name))
    if rule.settings.supervision is not None:
        fits, allowed = seen <= set(rule.settings.supervision), ", ".join(rule.settings.supervision)
    elif name == plain or name.startswith(f"{plain}-"):
        fits, allowed = name == proper, "what the name says"
    elif champion:
        run = find_version(f"models:/{name}/{champion}", name).run
        other = supervision_of_run(run) if run else None
        fits, allowed = other == seen, "what its champion saw"
    else:
        fits, allowed = _MASKS not in seen, f"all but {_MASKS}"
    if not fits:
        own = command("wsss", "promote", version.run, "--name", proper)
        raise UserError(f"it saw {words}, and {name} allows {allowed}; promote its run under {proper} ({own})")
    return words
