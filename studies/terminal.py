"""How commands talk: results on standard output, everything else on standard error."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

BAD_INPUT = 2
INTERRUPTED = 130


class ReportingGroup(TyperGroup):
    """A group of commands whose errors are one sentence and an exit code.

    Exit code 2 for what the user can put right, 130 for Ctrl-C. Anything else that is raised is a
    fault of the program and keeps its traceback, as everything does with ``--debug``.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("stopped")
            raise typer.Exit(INTERRUPTED) from None
        except ValueError as error:
            from ..spaces import BitfrontError

            if ctx.params.get("debug") or not isinstance(error, BitfrontError):
                raise
            for line in str(error).splitlines():
                complain(f"error: {line}")
            raise typer.Exit(BAD_INPUT) from None


def complain(line: str) -> None:
    """Print one line to standard error, as it is."""
    typer.echo(line, err=True)


def stdout() -> Console:
    """Return the console for results."""
    return Console(highlight=False)


def stderr() -> Console:
    """Return the console for progress."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_rows(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows with equal keys as a table; numbers to the right, names on one line."""
    table = Table(title=title or None, title_justify="left", box=None)
    for column, key in enumerate(rows[0] if rows else ()):
        number = all(isinstance(row[key], int | float) for row in rows)
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(key.replace("_", " "), justify=justify, no_wrap=column == 0)
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    stdout().print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), Text(_text(value)))
    stdout().print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
