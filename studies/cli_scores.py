"""The commands on sensitivity scores: scores, solve."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import Fast, Json, Sets, Study, load_study, parsed
from .terminal import print_facts, print_json, print_rows, stderr, stdout

if TYPE_CHECKING:
    from ..spaces import Scores
    from .scoring import Solved

_WHOLE = ("size", "bops")
"""Costs that are counts."""

Images = Annotated[
    int | None, typer.Option(min=1, help="Calibration images of the scores; all if none.")
]


def scores(
    study: Study,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="kl (the default), loss, fisher, ...; repeat."),
    ] = None,
    images: Images = None,
    output: Annotated[Path | None, typer.Option(help="File to write; of one kind.")] = None,
    fast: Fast = False,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Compute sensitivity scores, or take them from the study's ledger, and print them."""
    from ..models.config import ScoreConfig

    chosen = list(dict.fromkeys(kinds or ["kl"]))
    configs = [ScoreConfig(kind=kind, images=images) for kind in chosen]  # type: ignore[arg-type]
    if output is not None and len(configs) > 1:
        raise typer.BadParameter("a file holds scores of one kind", param_hint="--output")
    spec = load_study(study, sets, fast=fast)
    from .progress import progress_for
    from .scoring import compute_study_scores

    with progress_for(stderr()) as progress:
        found = compute_study_scores(spec, configs, progress=progress)
    if output is not None:
        _save(found[0], output)
    if as_json:
        print_json([scores.to_dict() for scores in found])
        return
    for kind in found:
        _print_scores(kind)


def solve(
    study: Study,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="COST=NUMBER", help="energy=0.6, size=150000; repeat."),
    ] = None,
    kind: Annotated[str, typer.Option("--score", help="Which scores of the study's ledger.")] = (
        "kl"
    ),
    images: Images = None,
    file: Annotated[
        Path | None, typer.Option("--scores", help="File of scores, in place of the ledger's.")
    ] = None,
    monotone: Annotated[
        bool,
        typer.Option("--monotone/--as-measured", help="Never let fewer bits score better."),
    ] = True,
    time_limit: Annotated[float, typer.Option(min=0.001, help="Seconds for the solver.")] = 60.0,
    fast: Fast = False,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Find the allocation with the best sum of saved scores within limits, exactly.

    Nothing is measured: the score is a model of the network.
    """
    from ..models.config import ScoreConfig

    source = ScoreConfig(kind=kind, images=images) if file is None else file  # type: ignore[arg-type]
    bounds = _limits(limits or ())
    spec = load_study(study, sets, fast=fast)
    from .progress import progress_for
    from .scoring import solve_study

    with progress_for(stderr()) as progress:
        solved = solve_study(
            spec,
            bounds,
            source,
            monotone=monotone,
            time_limit_s=time_limit,
            progress=progress,
        )
    if as_json:
        print_json(solved.to_dict())
    else:
        _print_solved(solved)


def _limits(texts: Sequence[str]) -> dict[str, float]:
    """Return limits by name, of ``COST=NUMBER`` each."""
    limits = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        number = parsed(value, f"option --limit {name}")
        if not name or isinstance(number, bool) or not isinstance(number, int | float):
            raise typer.BadParameter(
                f"expected COST=NUMBER as energy=0.6, got {text}", param_hint="--limit"
            )
        if name in limits:
            raise typer.BadParameter(f"{name} is limited twice; give one", param_hint="--limit")
        limits[name] = float(number)
    return limits


def _save(scores: "Scores", path: Path) -> None:
    from ..spaces import StudyError

    try:
        scores.save(path)
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}") from error


def _print_scores(scores: "Scores") -> None:
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from ..spaces.slots import OPERANDS

    heading = (
        f"{scores.kind} scores by bits: {scores.images_forward:,} images forward, "
        f"{scores.images_backward:,} backward, {scores.wall_s:.1f} s"
    )
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("layer", overflow="fold")
    table.add_column("operand", no_wrap=True)
    widths = np.flatnonzero(~np.isnan(scores.values).all(axis=(0, 1))).tolist()
    for bits in widths:
        table.add_column(str(bits), justify="right", no_wrap=True)
    for name, operands in zip(scores.layers, scores.values, strict=True):
        for operand, row in zip(OPERANDS, operands, strict=True):
            table.add_row(Text(name), operand, *(_score_text(row[bits]) for bits in widths))
    stdout().print(Text(heading, style="bold"))
    stdout().print(table)


def _score_text(score: float) -> str:
    return "" if math.isnan(score) else f"{score:.1e}" if score else "0"


def _print_solved(solved: "Solved") -> None:
    from .findings import EQUAL_GAP

    solution = solved.solution
    allocation = solution.allocation
    print_rows(
        [
            {"layer": name, "weight bits": weight, "activation bits": activation}
            for name, weight, activation in zip(
                allocation.layers, allocation.weights, allocation.activations, strict=True
            )
        ]
    )
    print_facts(
        {
            "scores": solved.kind,
            "predicted score": solution.score,
            "status": solution.status,
            "bound": solution.bound,
            "gap": 0.0 if solution.gap < EQUAL_GAP else solution.gap,
            "solver seconds": solution.wall_s,
            **{name: int(cost) if name in _WHOLE else cost for name, cost in solved.costs.items()},
            "allocation": allocation.key,
        }
    )
