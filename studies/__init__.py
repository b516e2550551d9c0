"""Comparative studies: their files, execution, results, tracking and command line.

Importing this package is cheap: names are fetched from their modules when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faults import Fault, InvalidStudyError
    from .find import library_studies
    from .progress import ProgressEvent
    from .result import Point, StudyResult, TrialRecord
    from .runner import run_study
    from .spec import StudySpec

OUTPUT = "bitfront-runs"
"""Where studies are written if nobody says otherwise, relative to the working directory."""

_HOMES = {
    "Fault": "faults",
    "InvalidStudyError": "faults",
    "Point": "result",
    "ProgressEvent": "progress",
    "StudyResult": "result",
    "StudySpec": "spec",
    "TrialRecord": "result",
    "library_studies": "find",
    "run_study": "runner",
}
"""The module of every name that is fetched when first used."""

__all__ = [
    "OUTPUT",
    "Fault",
    "InvalidStudyError",
    "Point",
    "ProgressEvent",
    "StudyResult",
    "StudySpec",
    "TrialRecord",
    "library_studies",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
