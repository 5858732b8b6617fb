"""The page of a search: what came out, how it went, which settings matter, and every trial with what it cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState, create_trial

from tune.leaderboard import leaderboard
from tune.page import as_svg, drawing, heading, page, paragraph, picture, table
from tune.study import COMPLETE, FAILED, METHOD, PRUNED, RUNNING, Study, TrialRecord
from tune.verdict import Verdict
from wsss.progress import say
from wsss.storage import inside, write_bytes
from wsss.tables.importance import ENOUGH, importances

if TYPE_CHECKING:
    from mlflow import MlflowClient

SEARCH_PAGE = "search.html"
"""The artifact of the search's run."""
_WORDS = {COMPLETE: "complete", PRUNED: "given up", FAILED: "failed", RUNNING: "running"}
_MANY = 200
"""Marks of so many trials become one bitmap within the figure."""


def write_search_page(study: Study, verdict: Verdict | None, folder: Path, client: MlflowClient, run: str) -> Path:
    """Write the page as FOLDER/NAME.html, and log it to the search's run; without the server it is only written.

    Args:
        study: of the search.
        verdict: what came out; None where trials are left.
        folder: where the page goes.
        client: of the tracking store.
        run: the id of the search's run.
    """
    content = search_page(study, verdict)
    path = inside(folder, f"{study.search.name}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.encode())
    try:
        client.log_text(run, content, SEARCH_PAGE)
    except Exception as error:  # whatever a server that is away raises
        why = str(error).partition("\n")[0]
        say(f"the page {path} could not be logged to the search's run ({why})")
    return path


def search_page(study: Study, verdict: Verdict | None) -> str:
    """The page as HTML: it needs nothing beside it."""
    search, records = study.search, study.records
    counts = ", ".join(
        f"{count} {word}" for state, word in _WORDS.items() if (count := sum(r.state == state for r in records))
    )
    saved = sum(record.facts.get("saved", 0.0) for record in records)
    seconds = sum(record.facts.get("seconds", 0.0) for record in records)
    parts = [
        paragraph(
            f"{search.metric} of {', '.join(each.method for each in search.methods)} on dataset {search.data}, preset "
            f"{search.preset}, rng {search.rng}."
        ),
        paragraph(f"Trials: {counts or 'none'}."),
        paragraph(f"Their steps are worth {seconds:.0f} s, of which {saved:.0f} s were not computed anew."),
    ]
    if verdict is not None:
        parts += [heading("What came out"), *_outcome(verdict)]
        if verdict.methods:
            board = leaderboard(verdict, search.metric)
            heads = [column.head for column in board.columns]
            parts += [heading("Method by method"), paragraph(board.title), table(heads, board.rows)]
    parts += [*_figures(study), heading("Trials"), _trials(records)]
    return page(f"Search {search.name}", *parts)


def _outcome(verdict: Verdict) -> Iterator[str]:
    taken = "the best trial is taken" if verdict.better else "the preset's own settings stay"
    interval = f", 95 % [{verdict.interval[0]:+.4f}, {verdict.interval[1]:+.4f}]" if verdict.interval else ""
    yield paragraph(f"Best less preset on dev: {verdict.difference:+.4f}{interval}; {taken}.")
    names = sorted({*verdict.best.final, *verdict.default.final})
    rows = [
        [
            who,
            str(measure.trial + 1),
            f"{measure.mean:.4f}" + (f" ± {measure.deviation:.4f}" if len(measure.values) > 1 else ""),
            *(f"{measure.final[name]:.4f}" if name in measure.final else "-" for name in names),
            measure.run or "-",
            _settings(measure.candidate.method, measure.candidate.settings),
        ]
        for who, measure in (("best", verdict.best), ("preset", verdict.default))
    ]
    yield table(["", "trial", "objective on dev", *names, "whole run", "settings"], rows)


def _trials(records: Sequence[TrialRecord]) -> str:
    heads = [
        "trial",
        "",
        "value",
        "settings",
        "images",
        "computed",
        "waited for",
        "reused",
        "seconds",
        "saved",
        "error",
    ]
    rows = []
    for record in records:
        facts = record.facts
        steps: dict[str, list[str]] = {how: [] for how in ("computed", "waited", "reused")}
        for step in facts.get("steps", []):
            steps[step["how"]].append(step["key"])
        rows.append(
            [
                str(record.number + 1),
                _WORDS[record.state],
                "" if record.value is None else f"{record.value:.4f}",
                _settings(record.candidate.method, record.candidate.settings),
                f"{facts['images']} of {facts['of']}" if "images" in facts else "",
                *(", ".join(keys) for keys in steps.values()),
                f"{facts['seconds']:.1f}" if "seconds" in facts else "",
                f"{facts['saved']:.1f}" if "saved" in facts else "",
                str(facts.get("error", "")),
            ]
        )
    return table(heads, rows)


def _figures(study: Study) -> Iterator[str]:
    """The pictures of Optuna's that the trials are enough for."""
    import optuna.visualization.matplotlib as pictures

    several = study.search.seconds
    # Without a target, Optuna shows what is better in a darker colour.
    aim: dict[str, Any] = {"target_name": study.search.metric} | ({"target": _first} if several else {})
    whole = study.optuna
    complete = [trial for trial in whole.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if not complete:
        yield paragraph("No trial is complete, so there is nothing to draw.", note=True)
        return
    yield heading("Optimisation history")
    yield _drawn(partial(pictures.plot_optimization_history, whole, **aim))
    if several:
        yield heading("Quality against seconds")
        names_of = [study.search.metric, "seconds"]
        yield _drawn(partial(pictures.plot_pareto_front, whole, target_names=names_of))
    for each in study.search.methods:
        own = _of_method(study, each.method)
        of = f" of {each.method}" if len(study.search.methods) > 1 else ""
        names = sorted({name for trial in own.trials for name in trial.params})
        if len(own.trials) < ENOUGH or not names:
            yield paragraph(f"Too few complete trials{of} for a picture of its settings.", note=True)
            continue
        yield heading(f"Importance of the settings{of}")
        complete_of = [(r.candidate.settings, r.value or 0.0) for r in study.records if _is_complete(r, each.method)]
        yield _drawn(partial(_bars, importances(complete_of, each.space, study.search.mode)))
        yield heading(f"Settings and values{of}")
        yield _drawn(partial(pictures.plot_parallel_coordinate, own, names, **aim), len(names))


def _is_complete(record: TrialRecord, method: str) -> bool:
    return record.state == COMPLETE and record.candidate.method == method


def _bars(shares: Mapping[str, float]) -> Any:
    """The importance of settings, the most important one on top."""
    from matplotlib import pyplot

    if not shares:
        raise ValueError("no setting varies among the complete trials")
    axes = pyplot.subplots()[1]
    bars = axes.barh([*shares][::-1], [*shares.values()][::-1])
    axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.set_xlabel("Importance (shares, by PED-ANOVA)")
    return axes


def _first(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


def _of_method(study: Study, method: str) -> optuna.Study:
    """The complete trials of a method alone, with its settings under their own names."""
    own = optuna.create_study(directions=study.optuna.directions)
    several = len(study.search.methods) > 1
    for trial in study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if several and trial.params.get(METHOD) != method:
            continue
        names = {name: name.removeprefix(f"{method} ") for name in trial.params if not several or name != METHOD}
        own.add_trial(
            create_trial(
                values=trial.values,
                params={short: trial.params[name] for name, short in names.items()},
                distributions={short: trial.distributions[name] for name, short in names.items()},
            )
        )
    return own


def _drawn(draw: Callable[[], Any], columns: int = 0) -> str:
    """One of Optuna's pictures as a part of the page, or why there is none."""
    from matplotlib import pyplot

    with drawing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            axes = draw()
            figure = axes.get_figure()
            figure.set_size_inches(max(7.0, 1.6 * columns), 4.0)
            for axis in [
                axis for each in figure.axes for axis in (each.xaxis, each.yaxis) if axis.get_scale() == "log"
            ]:
                axis.set_major_formatter(_plainly)
                axis.set_minor_formatter(_plainly)
            for artist in [artist for each in figure.axes for artist in each.collections]:
                if len(artist.get_paths()) > _MANY or len(artist.get_offsets()) > _MANY:
                    artist.set_rasterized(True)
            return picture(as_svg(figure))
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            return paragraph(f"No picture: {error}", note=True)
        finally:
            pyplot.close("all")


def _plainly(value: float, _: int | None = None) -> str:
    """A number on a logarithmic axis, which would be a formula else."""
    return f"{value:g}"


def _settings(method: str, settings: Any) -> str:
    values = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items())
    return " ".join([method, *values])
