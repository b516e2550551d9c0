"""The code that trains, as a digest: what other code has trained is trained anew."""

import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent

SHARED = (
    "models/augment.py",
    "models/dynamic/*.py",
    "models/optimizers.py",
    "models/qat/*.py",
    "models/trained.py",
    "searchers/learnprec_*.py",
    "searchers/rounding.py",
    "searchers/steering.py",
    "spaces/rounding.py",
)
"""What strategies that train call, from the package's folder; read as files, so that torch stays
out."""


def module_text(owner: type) -> str | None:
    """Return the text of the module a class is defined in; None if there is none to read."""
    try:
        return inspect.getsource(sys.modules[owner.__module__])
    except (LookupError, OSError, TypeError):
        return None


def training_code(strategy: type) -> str:
    """Return a hexadecimal name of the code that trains for a strategy.

    That is the modules of its class and of those it inherits from, and what these call in common.
    """
    digest = hashlib.sha256()
    for name, text in (*_modules(strategy), *_files()):
        digest.update(f"{name} {len(text)} {text}".encode())
    return digest.hexdigest()


def _modules(strategy: type) -> Iterator[tuple[str, str]]:
    for owner in strategy.__mro__:
        if owner.__module__.partition(".")[0] not in sys.stdlib_module_names:
            yield owner.__module__, module_text(owner) or ""


def _files() -> Iterator[tuple[str, str]]:
    for pattern in SHARED:
        for path in sorted(_PACKAGE.glob(pattern)):
            yield path.relative_to(_PACKAGE).as_posix(), path.read_text(encoding="utf-8")
