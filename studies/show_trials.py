"""The trials of a finished study in the terminal: their costs, and what strategies reported."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .findings import agreement, solver_text, trace_of
from .palette import styles
from .result import StudyResult, TrialRecord


def trial_parts(result: StudyResult) -> list[RenderableType]:
    """Return what is shown of trials: costs, failures, solvers, predictions and traces."""
    parts: list[RenderableType] = [_costs(result)]
    parts += [
        Text(f"{_title(result, trial)} failed: {trial.error}", style="red")
        for trial in result.failed_trials
    ]
    solved = [(trial, solver_text(trial.findings)) for trial in result.trials]
    parts += _block("exact solvers", [(_title(result, t), said) for t, said in solved if said])
    predicted = [(_title(result, t), _predicted(t)) for t in result.trials if t.predictions]
    parts += _block("predicted against the measured loss on the search split", predicted)
    logged = [(_title(result, trial), _logged(trial)) for trial in result.trials]
    parts += _block("logged step by step", [(title, said) for title, said in logged if said])
    return parts


def _costs(result: StudyResult) -> Table:
    """Return a row for each trial: evaluations, images and seconds."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("trial", overflow="fold")  # the numbers have no line to spare
    for heading in ("evaluations", "images forward", "backward", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    colours = styles(trial.strategy for trial in result.trials)
    for trial in result.trials:
        table.add_row(
            Text(_title(result, trial), style=colours[trial.strategy].colour),
            f"{trial.evaluations:,}",
            f"{trial.images_forward:,}",
            f"{trial.images_backward:,}",
            f"{trial.wall_s:.1f}",
        )
    return table


def _title(result: StudyResult, trial: TrialRecord) -> str:
    """Return what a trial is called; with its budget where there are several."""
    budget = f", {trial.budget}" if result.has_several_budgets else ""
    return f"{trial.strategy}, seed {trial.seed}{budget}"


def _predicted(trial: TrialRecord) -> str:
    what = trial.findings.get("predicts")
    named = f"{what}: " if isinstance(what, str) else ""
    found = agreement(trial.predictions)
    count = len(trial.predictions)
    allocations = f"{count} allocation{'s' * (count > 1)}"
    return f"{named}{allocations}{'' if found is None else f', {found}'}"


def _logged(trial: TrialRecord) -> str:
    trace = trace_of(trial.findings)
    if not trace:
        return ""
    said = f"{len(trace)} {trace.step}{'s' * (len(trace) > 1)}"
    best = trace.last("best_accuracy")
    return said if best is None else f"{said}, best accuracy {100 * best:.2f} %"


def _block(heading: str, lines: list[tuple[str, str]]) -> list[RenderableType]:
    """Return a heading with a line for each trial; nothing without lines."""
    if not lines:
        return []
    return [
        Text(f"\n{heading}", style="bold"),
        *(Text(f"  {title}: {said}") for title, said in lines),
    ]
