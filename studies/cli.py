"""The command line. Everything heavy is imported by the command that needs it."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import (
    BAD_INPUT,
    INTERRUPTED,
    ReportingGroup,
    complain,
    print_facts,
    print_json,
    print_rows,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from .spec import StudySpec
    from .yaml_lines import Place

app = typer.Typer(
    name="bitfront",
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compare mixed-precision quantization strategies fairly.",
)


class Kind(StrEnum):
    """What `bitfront list` can list."""

    STRATEGIES = "strategies"
    MODELS = "models"
    DATA = "data"
    TABLES = "tables"
    STUDIES = "studies"


Study = Annotated[str, typer.Argument(help="A study file, or the name of a ready study.")]
Finished = Annotated[str, typer.Argument(help="Name, folder or file of a study that was run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the study: data.seed=1."),
]
Output = Annotated[str, typer.Option(help="Folder that holds the folders of studies.")]


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Compare mixed-precision quantization strategies fairly."""
    if version:
        from .. import __version__

        typer.echo(f"bitfront {__version__}")
        raise typer.Exit


@app.command()
def run(
    study: Study,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that measure; 0 for none but this one.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, as 0,1,2.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for study folders.")] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Run a study and print its front. Exit code 1 if a strategy failed."""
    from .progress import progress_for
    from .runner import run_study
    from .show import point_rows, render

    options: dict[Place, Any] = {
        ("execution", "workers"): workers,
        ("execution", "address"): address,
        ("seeds",): None if seeds is None else _parsed(f"[{seeds}]", "option --seeds"),
        ("output",): output,
    }
    spec = _load(study, sets, options)
    try:
        with progress_for(stderr()) as progress:
            result = run_study(spec, progress=progress)
    except KeyboardInterrupt:
        complain(
            "stopped; what was measured is kept: run the same command again to go on from there"
        )
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        trials = [trial.to_dict() for trial in result.trials]
        folder = str(spec.folder)
        print_json({"folder": folder, "trials": trials, "points": point_rows(result.points)})
    else:
        stdout().print(render(result))
        outside = "" if spec.output == "bitfront-runs" else f" --output {spec.output}"
        stdout().print(f"browse it: bitfront ui {spec.study}{outside}", markup=False)
    if result.failed_trials:
        raise typer.Exit(1)


@app.command()
def show(
    study: Finished,
    everything: Annotated[
        bool, typer.Option("--all", help="List all finalists, not the common front only.")
    ] = False,
    output: Output = "bitfront-runs",
    as_json: Json = False,
) -> None:
    """Show the front of a finished study; --json lists all its finalists."""
    from .result import StudyResult
    from .show import find_result, point_rows, render

    result = StudyResult.load(find_result(study, output))
    if as_json:
        print_json(point_rows(result.points))
    else:
        stdout().print(render(result, everything=everything))


@app.command()
def ui(
    study: Annotated[str | None, typer.Argument(help="As for show; all studies if none.")] = None,
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; a free one if none.")] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    output: Output = "bitfront-runs",
    as_json: Json = False,
) -> None:
    """Start MLflow on 127.0.0.1 and open the Pareto page of a study. Ctrl-C ends it."""
    from .mlflow_store import resolve_uri
    from .result import StudyResult
    from .show import find_result
    from .ui import start_ui

    uri, experiment = resolve_uri(None, Path(output)), None
    if study is not None:
        folder = find_result(study, output)
        result = StudyResult.load(folder)
        tracking = result.spec.get("tracking") or {}
        uri = resolve_uri(tracking.get("uri"), folder.parent)
        experiment = tracking.get("experiment") or result.name
    with start_ui(uri, experiment, port=port) as page:
        if as_json:
            print_json({"url": page.url})
        else:
            typer.echo(f"{page.url}\nCtrl-C ends it.")
        if open_browser:
            typer.launch(page.url)
        page.wait()


@app.command("list")
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


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="As in a study: cnn5, timm:NAME, module:function.")],
    input_shape: Annotated[str, typer.Option(help="Channels, height, width.")] = "3,32,32",
    classes: Annotated[int, typer.Option(min=1, help="Outputs of the network.")] = 10,
    table: Annotated[str, typer.Option(help="Name or file of an energy table.")] = "horowitz-45nm",
    as_json: Json = False,
) -> None:
    """Print a network's layers, multiply-accumulates and energy at uniform 8 bit."""
    from .catalogue import profile_model

    shape = _parsed(f"[{input_shape}]", "option --input-shape")
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise typer.BadParameter(
            f"expected three whole numbers as 3,32,32, got {input_shape}", param_hint="input-shape"
        )
    channels, height, width = shape
    found = profile_model(
        model, classes=classes, input_shape=(channels, height, width), table=table
    )
    if as_json:
        print_json(found)
        return
    unit = found["energy_unit"]
    print_rows(found["layers"], title=f"{model}, input {input_shape}, {unit} of {table}")
    typer.echo(
        f"{len(found['layers'])} layers, {found['macs']:,} MACs, {found['weights']:,} weights, "
        f"{found['energy_fp32']:.4g} {unit} in float32, {found['energy_w8a8']:.4g} {unit} at 8 bit"
    )


@app.command()
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


@app.command()
def validate(
    study: Study,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Build the network and check layers, space and budgets too."),
    ] = False,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Check a study without running it."""
    from .faults import InvalidStudyError

    try:
        spec = _load(study, sets)
        summary: dict[str, Any] = {
            "study": spec.study,
            "strategies": [strategy.label for strategy in spec.strategies],
            "trials": len(spec.strategies) * len(spec.budgets) * len(spec.seeds),
            "evaluations": len(spec.strategies)
            * len(spec.seeds)
            * sum(budget.evaluations for budget in spec.budgets),
        }
        if deep:
            summary |= _inspected(spec)
    except InvalidStudyError as error:
        if not as_json:
            raise
        faults = [
            {"where": fault.where, "place": fault.place, "message": fault.message}
            for fault in error.faults
        ]
        print_json({"valid": False, "faults": faults})
        raise typer.Exit(BAD_INPUT) from None
    if as_json:
        print_json({"valid": True, **summary})
    else:
        print_facts(summary)


def _inspected(spec: "StudySpec") -> dict[str, Any]:
    from .checks import inspect

    found = inspect(spec)
    return {
        "layers": len(found.layers),
        "macs": sum(layer.macs for layer in found.layers),
        "allocations": f"{found.space.size:.3g}",
        **{f"{split}_images": count for split, count in found.images.items()},
    }


def _load(
    study: str, sets: list[str] | None, options: "dict[Place, Any] | None" = None
) -> "StudySpec":
    """Load a study with what the command line sets in it."""
    from .spec import StudySpec

    overrides: dict[Place, Any] = {}
    for text in sets or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {text}", param_hint="--set")
        place = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        overrides[place] = _parsed(value, f"option --set {key}")
    overrides |= {place: value for place, value in (options or {}).items() if value is not None}
    return StudySpec.load(study, overrides)


def _parsed(text: str, origin: str) -> Any:
    from .yaml_lines import parse_value

    return parse_value(text, origin)


def main() -> None:
    """Run the command line."""
    # At the end, so that a user's module is found and shadows nothing.
    sys.path.append(os.getcwd())
    app()
