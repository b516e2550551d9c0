"""Measure, record, show: ``python -m bitfront.benchmarks [--quick] [--only PREFIX] [--check]``."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from . import scaling_model
from .record import RECORD, Record
from .report import PAGE, markdown, missed, show, with_part
from .suite import QUICK, run, selected


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bitfront.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="resnet20 alone; records nothing")
    parser.add_argument("--only", default="", metavar="PREFIX", help="only keys that begin so")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--report", action="store_true", help="measure nothing, show the record")
    given = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)
    failed: list[str] = []
    if given.report:
        record = Record.read()
    else:
        chosen = QUICK if given.quick else selected(given.only)
        if not chosen:
            parser.error(f"no key begins with {given.only!r}")
        entries, failed = run(chosen, given.only, console)
        record = Record.here(entries)
    show(record, console)
    if not given.quick and record.entries:
        try:
            _keep(record, whole=not (given.only or failed))
        except ValueError as error:
            console.print(f"not recorded: {error}", style="red")
            return 1
    not_met = missed(record.entries)
    if not_met:
        console.print(f"{len(not_met)} missed: {', '.join(not_met)}", style="red")
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed or (given.check and not_met) else 0


def _keep(record: Record, whole: bool) -> None:
    """Write the record and the table: all of it, or into the one there is."""
    if not whole and RECORD.exists():
        record = Record.read().updated(record)
    record.write()
    page = with_part(PAGE.read_text(), "results", markdown(record))
    if scaling_model.is_possible(record):
        page = with_part(page, "scaling", scaling_model.markdown(record))
    PAGE.write_text(page)


if __name__ == "__main__":
    sys.exit(main())
