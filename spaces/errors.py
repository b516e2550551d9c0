"""The errors bitfront raises for its users: one sentence that says what to do.

::

    BitfrontError (ValueError)
    ├── SpaceError          a space or an allocation that contradicts itself
    ├── InfeasibleError     a budget below the smallest achievable cost
    ├── OutOfTimeError      a solver that found nothing within its time
    ├── SolverError         a solver that failed
    ├── EnergyTableError    a table that is malformed or lacks what is asked of it
    ├── ModelError          a model, layer or checkpoint that cannot be used
    ├── DataError           data that is missing or of the wrong shape
    ├── StudyError          a study file that is wrong; carries file and line
    └── EvaluationError     an allocation that could not be measured

``BudgetSpent`` is not an error of the user's: it is how a search ends (see ``bitfront.searchers``).
"""

import difflib
from collections.abc import Iterable


class BitfrontError(ValueError):
    """Base of every error a user may see; its text is one clear sentence."""


class SpaceError(BitfrontError):
    """A bit-width space or allocation that contradicts itself."""


class InfeasibleError(BitfrontError):
    """A budget below the smallest achievable cost."""


class OutOfTimeError(BitfrontError):
    """A solver that found nothing within its time."""


class SolverError(BitfrontError):
    """A solver that failed for another reason than time or an impossible budget."""


class EnergyTableError(BitfrontError):
    """An energy table that is malformed or lacks what is asked of it."""


class ModelError(BitfrontError):
    """A model, layer or checkpoint that cannot be used."""


class DataError(BitfrontError):
    """Data that is missing, incomplete or of the wrong shape."""


class StudyError(BitfrontError):
    """A study file that is wrong."""


class EvaluationError(BitfrontError):
    """An allocation that could not be measured."""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return a hint that names the known names nearest to a misspelt one.

    Args:
        name: What was given.
        known: What would have been accepted.
        limit: How many near names to offer.

    Returns:
        ``"did you mean 'a' or 'b'?"``, or ``"known: 'a', 'b', ..."`` when nothing is near.

    Examples:
        >>> nearest("horowits", ["horowitz-45nm", "jouppi-7nm"])
        "did you mean 'horowitz-45nm'?"
        >>> nearest("x", ["a", "b"])
        "known: 'a', 'b'"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    shown = ", ".join(repr(n) for n in names[:12])
    return f"known: {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
