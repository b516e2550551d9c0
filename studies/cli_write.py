"""The commands that help to write a study: list, profile, init, validate."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_options import Fast, Json, Sets, Study, load_study, parsed
from .terminal import BAD_INPUT, print_facts, print_json, print_rows

if TYPE_CHECKING:
    from .spec import StudySpec


class Kind(StrEnum):
    """What can be listed."""

    STRATEGIES = "strategies"
    MODELS = "models"
    DATA = "data"
    TABLES = "tables"
    STUDIES = "studies"


def list_(kind: Kind, as_json: Json = False) -> None:
    """List what a study can name."""
    from .catalogue import CATALOGUES

    rows = CATALOGUES[kind.value]()
    if as_json:
        print_json(rows)
        return
    if kind is Kind.STRATEGIES:
        for row in rows:
            typer.echo(f"{row['name']}: {row['summary']}")
            print_rows(row["settings"])
        return
    print_rows(rows)


def profile(
    model: Annotated[str, typer.Argument(help="As in a study: cnn5, timm:NAME, module:function.")],
    input_shape: Annotated[str, typer.Option(help="Channels, height, width.")] = "3,32,32",
    classes: Annotated[int, typer.Option(min=1, help="Outputs of the network.")] = 10,
    table: Annotated[str, typer.Option(help="Name or file of an energy table.")] = "horowitz-45nm",
    as_json: Json = False,
) -> None:
    """Print a network's layers, multiply-accumulates and energy at uniform 8 bit."""
    from .catalogue import profile_model

    shape = parsed(f"[{input_shape}]", "option --input-shape")
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise typer.BadParameter(
            f"expected three whole numbers as 3,32,32, got {input_shape}",
            param_hint="--input-shape",
        )
    found = profile_model(model, classes=classes, input_shape=tuple(shape), table=table)
    if as_json:
        print_json(found)
        return
    unit = found["energy_unit"]
    print_rows(found["layers"], title=f"{model}, input {input_shape}, energy in {unit} of {table}")
    typer.echo(
        f"{len(found['layers'])} layers, {found['macs']:,} MACs, {found['weights']:,} weights, "
        f"{found['energy_fp32']:.4g} {unit} in float32, {found['energy_w8a8']:.4g} {unit} at 8 bit"
    )


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented study file to start from."""
    from .template import write_template

    write_template(file, force=force)
    if as_json:
        print_json({"written": str(file)})
    else:
        typer.echo(f"wrote {file}; next: bitfront validate {file}, bitfront run {file}")


def validate(
    study: Study,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Build the network and check layers, space and budgets too."),
    ] = False,
    fast: Fast = False,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Check a study without running it."""
    from .faults import InvalidStudyError

    try:
        spec = load_study(study, sets, fast=fast)
        facts = _summary(spec) | (_inspection(spec) if deep else {})
    except InvalidStudyError as error:
        if not as_json:
            raise
        print_json({"valid": False, "faults": [fault.to_dict() for fault in error.faults]})
        raise typer.Exit(BAD_INPUT) from None
    if as_json:
        print_json({"valid": True, **facts})
    else:
        print_facts(facts)


def _summary(spec: "StudySpec") -> dict[str, Any]:
    from .trials import planned

    trials = planned(spec)
    return {
        "study": spec.study,
        "strategies": [strategy.label for strategy in spec.strategies],
        "trials": len(trials),
        "evaluations": sum(trial.budget.evaluations for trial in trials),
    }


def _inspection(spec: "StudySpec") -> dict[str, Any]:
    from .checks import inspect

    found = inspect(spec)
    return {
        "layers": len(found.layers),
        "macs": sum(layer.macs for layer in found.layers),
        # Per channel it has thousands of digits, which neither a reader nor JSON wants.
        "log10_allocations": round(math.log10(found.space.size), 2),
        **{f"{split}_images": count for split, count in found.images.items()},
    }
