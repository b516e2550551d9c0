"""A finished study in the terminal, and as plain rows."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..spaces import Measurement, StudyError
from . import OUTPUT
from .choices_table import choices_parts
from .fast import fast_version
from .find import read_study
from .palette import styles
from .result import RESULT_FILE, Point, StudyResult
from .show_trials import trial_parts
from .yaml_lines import Document

COST_WORDS = {
    "energy": "energy relative to uniform 8 bit",
    "size": "size in bytes",
    "bops": "bit operations",
    "mean_weight_bits": "mean bits per weight",
    "mean_activation_bits": "mean bits per activation",
}
"""What a cost is called under the picture."""

_WIDTH, _HEIGHT = 64, 14
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def find_result(study: str, output: str = OUTPUT, *, fast: bool = False) -> Path:
    """Return the folder of a finished study.

    Args:
        study: A study's folder, the name of a study, or a study file.
        output: The folder that holds the folders of studies.
        fast: Whether it is that of the fast profile of a ready study or of a study file.

    Raises:
        StudyError: If there is none.
    """
    if fast:
        return _folder(fast_version(read_study(study), study), output)
    for folder in (Path(study), Path(output) / study):
        if (folder / RESULT_FILE).is_file():
            return folder
    if not Path(study).is_file():
        raise StudyError(
            f"no finished study {study!r}: looked for {RESULT_FILE} in {study} and in "
            f"{Path(output) / study}; run it first (bitfront run STUDY), or name its folder"
        )
    return _folder(read_study(study), output)


def _folder(document: Document, output: str) -> Path:
    said = document.value
    return Path(str(said.get("output", output))) / str(said.get("study"))


def point_rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return one row of plain values per point, as measured on the test split."""
    return [
        {
            "strategy": point.strategy,
            "seed": point.seed,
            "budget": point.budget,
            "allocation": point.test.allocation.key,
            "network": point.test.network,
            **measurement_row(point.test),
            "on_front": point.on_front,
            "on_strategy_front": point.on_strategy_front,
        }
        for point in points
    ]


def measurement_row(measurement: Measurement) -> dict[str, Any]:
    """Return what is reported of a measurement as plain values."""
    names = (
        "accuracy",
        "accuracy_se",
        "loss",
        "energy_pj",
        "energy_vs_fp32",
        "energy_vs_w8a8",
        "energy_table",
        "size_bytes",
        "bops",
        "mean_weight_bits",
        "mean_activation_bits",
        "samples",
        "split",
    )
    values = measurement.to_dict()
    return {**{name: _finite(values[name]) for name in names}, "dynamic": values["dynamic"]}


def _finite(value: Any) -> Any:
    """Return None for a number JSON cannot write, such as a ratio to what a table cannot price."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(result: StudyResult, *, everything: bool = False) -> RenderableType:
    """Return the front as a picture and a table, with the baselines and what each trial cost.

    Args:
        result: The study.
        everything: Whether to list every finalist, not the common front only.
    """
    points = result.points if everything else result.front
    heading = Text(
        f"{result.name}: {len(points)} of {len(result.points)} finalists, "
        f"{result.float_test.samples} test images, energy table {result.float_test.energy_table}",
        style="bold",
    )
    parts: list[RenderableType] = [_picture(result), heading, _table(result, points)]
    parts += [*choices_parts(result, points), Text(), *trial_parts(result)]
    parts += [Text(note, style="dim") for note in result.notes]
    return Group(*parts)


def _table(result: StudyResult, points: Sequence[Point]) -> Table:
    """Return a row per strategy and what it found; several seeds may have found it."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("strategy", overflow="fold")  # the numbers have no line to spare
    for heading in ("seeds", "accuracy, %", "energy", "/fp32", "/w8a8", "size", "bits w/a"):
        table.add_column(heading, justify="right", no_wrap=True)
    colours = styles(point.strategy for point in result.points)
    found: dict[tuple[float, str, str], list[Point]] = {}
    for point in points:
        measured = f"{point.test.allocation.key} {point.test.network}"
        key = (result.cost.of(point.test), point.strategy, measured)
        found.setdefault(key, []).append(point)
    for (_, strategy, _), same in sorted(found.items()):
        seeds = ",".join(map(str, sorted({point.seed for point in same})))
        name = Text(strategy, style=colours[strategy].colour)
        table.add_row(name, seeds, *_cells(same[0].test))
    table.add_row("float32", "", *_cells(result.float_test), style="dim")
    table.add_row("8 bit", "", *_cells(result.uniform_w8a8), style="dim")
    return table


def _cells(measured: Measurement) -> tuple[str, ...]:
    return (
        f"{100 * measured.accuracy:.2f} ± {100 * measured.accuracy_se:.2f}",
        "" if measured.energy_pj is None else energy_text(measured.energy_pj),
        _ratio_text(measured.energy_vs_fp32),
        _ratio_text(measured.energy_vs_w8a8),
        size_text(measured.size_bytes),
        f"{measured.mean_weight_bits:.1f}/{measured.mean_activation_bits:.1f}",
    )


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else ""


def _picture(result: StudyResult) -> Text:
    """Draw accuracy over energy with a letter per strategy; capitals are on the common front."""
    points = [point for point in result.points if not point.test.failed]
    if not points:
        return Text("no finalist could be measured", style="red")
    costs = [result.cost.of(point.test) for point in points]
    columns = _cells_along(costs, _WIDTH)
    rows = _cells_along([p.test.accuracy for p in points], _HEIGHT)
    drawn = styles(point.strategy for point in points)
    letters = dict(zip(drawn, _LETTERS * (len(drawn) // len(_LETTERS) + 1), strict=False))
    grid: dict[tuple[int, int], Point] = {}
    for point, column, row in zip(points, columns, rows, strict=True):
        shown = grid.get((row, column))
        if shown is None or (point.on_front and not shown.on_front):
            grid[row, column] = point
    best, worst = (100 * f(p.test.accuracy for p in points) for f in (max, min))
    text = Text("accuracy on the test split, %\n")
    for row in range(_HEIGHT - 1, -1, -1):
        label = {_HEIGHT - 1: f"{best:.1f}", 0: f"{worst:.1f}"}.get(row, "")
        text.append(f"{label:>6} │")
        for column in range(_WIDTH):
            if (found := grid.get((row, column))) is None:
                text.append(" ")
                continue
            letter = letters[found.strategy]
            colour = drawn[found.strategy].colour
            text.append(letter.upper() if found.on_front else letter, style=colour)
        text.append("\n")
    low, high = (_cost_text(f(costs)) for f in (min, max))
    gap = " " * (_WIDTH - len(low) - len(high))
    text.append(f"{'':>6} └{'─' * _WIDTH}\n{'':>8}{low}{gap}{high}\n")
    text.append(f"{'':>8}{COST_WORDS[result.cost.name]}; capitals are on the front\n{'':>8}")
    for label, style in drawn.items():
        text.append(f"{letters[label]} {label}  ", style=style.colour)
    return text.append("\n")


def _cost_text(cost: float) -> str:
    """Write a cost as it stands under the picture: a share or a mean width, or a large count."""
    return f"{cost:.3f}" if cost < 1000 else f"{cost:.4g}"


def _cells_along(values: Sequence[float], cells: int) -> list[int]:
    """Return in which of equally wide cells between the extremes each value lies."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [round((value - low) / span * (cells - 1)) for value in values]


def energy_text(energy_pj: float) -> str:
    """Return an energy with a fitting unit.

    Examples:
        >>> energy_text(850), energy_text(1.2e6)
        ('850 pJ', '1.20 µJ')
    """
    return _with_unit(energy_pj, {"mJ": 1e9, "µJ": 1e6, "nJ": 1e3, "pJ": 1.0})


def size_text(size_bytes: float) -> str:
    """Return a size with a fitting unit.

    Examples:
        >>> size_text(900), size_text(269_722)
        ('900 B', '270 kB')
    """
    return _with_unit(size_bytes, {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0})


def _with_unit(value: float, units: Mapping[str, float]) -> str:
    """Write a number in the largest unit of which it is one or more, after rounding."""
    fitting = (unit for unit, factor in units.items() if value >= 0.9995 * factor)
    unit = next(fitting, list(units)[-1])
    factor = units[unit]
    digits = f"{value:.3g}" if factor == 1 else f"{value / factor:#.3g}".removesuffix(".")
    return f"{digits} {unit}"
