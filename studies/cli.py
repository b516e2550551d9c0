"""The command line: run, show, ui, and the commands that help to write a study.

Everything heavy is imported by the command that needs it, so that help comes at once.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import OUTPUT, cli_optuna, cli_scores, cli_serve, cli_write
from .cli_options import Fast, Json, Sets, Study, load_study, parsed
from .terminal import INTERRUPTED, ReportingGroup, complain, print_json, stderr, stdout

if TYPE_CHECKING:
    from .yaml_lines import Place

app = typer.Typer(
    name="bitfront", cls=ReportingGroup, no_args_is_help=True, pretty_exceptions_enable=False
)

Output = Annotated[str, typer.Option(help="Folder that holds the folders of studies.")]


@app.callback(invoke_without_command=True)
def common(
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
    fast: Fast = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that measure; 0 for none but this one.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, as 0,1,2.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for the study's folder.")] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Run a study and print its front. Exit code 1 if a strategy failed."""
    options: dict[Place, Any] = {
        ("execution", "workers"): workers,
        ("execution", "address"): address,
        ("seeds",): None if seeds is None else parsed(f"[{seeds}]", "option --seeds"),
        ("output",): output,
    }
    spec = load_study(study, sets, options, fast=fast)
    from ..models.allocator import keep_freed_memory
    from .findings import without_trace
    from .interrupts import interruptible
    from .progress import progress_for
    from .runner import run_study
    from .show import point_rows, render

    keep_freed_memory()  # the network is trained here, and measured here with workers 0
    try:
        with progress_for(stderr()) as display, interruptible(display) as progress:
            result = run_study(spec, progress=progress)
    except KeyboardInterrupt:
        complain("stopped; what was measured is kept: run the same command again to go on")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        trials = [
            trial.to_dict() | {"findings": without_trace(trial.findings)} for trial in result.trials
        ]
        folder = str(spec.folder)
        print_json({"folder": folder, "trials": trials, "points": point_rows(result.points)})
    else:
        stdout().print(render(result))
        elsewhere = "" if spec.output == OUTPUT else f" --output {spec.output}"
        typer.echo(f"browse it: bitfront ui {spec.study}{elsewhere}")
    if result.failed_trials:
        raise typer.Exit(1)


@app.command()
def show(
    study: Annotated[str, typer.Argument(help="Name, folder or file of a study that was run.")],
    everything: Annotated[
        bool, typer.Option("--all", help="List all finalists, not the common front only.")
    ] = False,
    fast: Fast = False,
    output: Output = OUTPUT,
    as_json: Json = False,
) -> None:
    """Show the front of a finished study; --json lists all its finalists."""
    from .result import StudyResult
    from .show import find_result, point_rows, render

    result = StudyResult.load(find_result(study, output, fast=fast))
    if as_json:
        print_json(point_rows(result.points))
    else:
        stdout().print(render(result, everything=everything))


@app.command()
def ui(
    study: Annotated[str | None, typer.Argument(help="As for show; all studies if none.")] = None,
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; a free one if none.")] = None,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    fast: Fast = False,
    output: Output = OUTPUT,
    as_json: Json = False,
) -> None:
    """Start MLflow on 127.0.0.1 and open the Pareto page of a study. Ctrl-C ends it."""
    from .mlflow_store import resolve_uri
    from .result import StudyResult
    from .show import find_result
    from .ui import start_ui

    uri, experiment = resolve_uri(None, Path(output)), None
    if study is not None:
        folder = find_result(study, output, fast=fast)
        result = StudyResult.load(folder)
        tracking = result.spec.get("tracking") or {}
        uri = resolve_uri(tracking.get("uri"), folder.parent)
        experiment = tracking.get("experiment") or result.name
    with start_ui(uri, experiment, port=port) as page:
        if as_json:
            print_json({"url": page.url})
        else:
            typer.echo(f"{page.url}\nCtrl-C ends it.")
        if open_page:
            typer.launch(page.url)
        page.wait()


app.command("list")(cli_write.list_)
app.command()(cli_write.profile)
app.command()(cli_write.init)
app.command()(cli_write.validate)
app.command()(cli_scores.scores)
app.command()(cli_scores.solve)
app.command()(cli_optuna.optuna)
app.command("serve-check")(cli_serve.serve_check)


def main() -> None:
    """Run the command line."""
    # At the end, so that a user's module is found and shadows nothing.
    sys.path.append(os.getcwd())
    warnings.showwarning = lambda message, *_: complain(f"warning: {message}")
    app()
