"""The command that hands a finished study to Optuna's dashboard."""

import shlex
from typing import Annotated

import typer

from . import OUTPUT
from .cli_options import Fast, Json
from .terminal import print_json


def optuna(
    study: Annotated[str, typer.Argument(help="Name, folder or file of a study that was run.")],
    output: Annotated[str, typer.Option(help="Folder that holds the folders of studies.")] = OUTPUT,
    fast: Fast = False,
    as_json: Json = False,
) -> None:
    """Write the trials of a finished study for Optuna's dashboard, and print how to open it."""
    from .optuna_store import write_optuna
    from .show import find_result

    path, count = write_optuna(find_result(study, output, fast=fast))
    command = f"optuna-dashboard --host 127.0.0.1 {shlex.quote(str(path))}"
    if as_json:
        print_json({"file": str(path), "studies": count, "command": command})
    else:
        typer.echo(f"wrote {count} Optuna studies to {path}\nbrowse them: {command}")
