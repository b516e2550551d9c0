"""What strategies report beside their fronts: predictions to be checked, words of solvers, traces.

A prediction is compared with the loss that was measured on the search split, whatever it predicts:
a score that orders allocations as their loss does is a good score, in any unit.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..searchers.trace import Trace
from ..spaces import Measurement, StudyError

TRACE = "trace"
"""The finding that holds what a strategy logged, `Trace.to_dict`."""

EQUAL_GAP = 1e-9
"""A relative gap this small is rounding."""

Pair = tuple[float, float]
"""A predicted value, and the measured loss in nats."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well predictions order allocations, and how close they lie to a straight line.

    Attributes:
        count: Allocations that were predicted and measured.
        tau: Kendall's tau-b of predicted values and measured losses; None where either is constant.
        r2: The coefficient of determination of the straight line through them; None likewise.
    """

    count: int
    tau: float | None
    r2: float | None

    def __str__(self) -> str:
        tau, r2 = ("unknown" if v is None else f"{v:.2f}" for v in (self.tau, self.r2))
        return f"Kendall's tau {tau}, R² {r2}"


def predictions(findings: Mapping[str, Any], history: Iterable[Measurement]) -> tuple[Pair, ...]:
    """Return what a strategy predicted of the allocations it measured.

    Args:
        findings: What it reported.
        history: What it was answered; failures and parts of the split are left out.

    Returns:
        One pair for each allocation, in the order asked.
    """
    predicted = findings.get("predicted")
    if not isinstance(predicted, Mapping):
        return ()
    pairs = {
        m.allocation.key: (float(predicted[m.allocation.key]), m.loss)
        for m in history
        if not m.failed
        and m.fidelity == 1.0
        and math.isfinite(m.loss)
        and isinstance(predicted.get(m.allocation.key), int | float)
    }
    return tuple(pairs.values())


def agreement(pairs: Sequence[Pair]) -> Agreement | None:
    """Return how far predictions and measured losses agree; None with fewer than three pairs."""
    if len(pairs) < 3:
        return None
    predicted, measured = np.array(pairs, dtype=np.float64).T
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return Agreement(len(pairs), None, None)
    from scipy.stats import kendalltau

    tau = float(kendalltau(predicted, measured).statistic)
    return Agreement(len(pairs), tau, float(np.corrcoef(predicted, measured)[0, 1] ** 2))


def solver_text(findings: Mapping[str, Any]) -> str:
    """Return what exact solvers said in one phrase; empty if none was asked."""
    said = findings.get("solver")
    solutions = [s for s in said if isinstance(s, Mapping)] if isinstance(said, list) else []
    if not solutions:
        return ""
    counts: dict[str, int] = {}
    for solution in solutions:
        status = str(solution.get("status", "unknown"))
        counts[status] = counts.get(status, 0) + 1
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
    known = [s for s in solutions if isinstance(s.get("gap"), int | float)]
    if not known:
        return statuses
    widest = max(known, key=lambda solution: float(solution["gap"]))
    gap = float(widest["gap"]) if widest["gap"] > EQUAL_GAP else 0.0
    details = (f"{n} {widest[n]:.4g}" for n in ("score", "bound") if _is_number(widest.get(n)))
    which = "gap" if len(solutions) == 1 else "largest gap"
    return f"{statuses}; {which} {gap:.2g} ({', '.join(details)})"


def trace_of(findings: Mapping[str, Any]) -> Trace | None:
    """Return what a strategy logged step by step; None if it logged nothing."""
    logged = findings.get(TRACE)
    if not isinstance(logged, Mapping):
        return None
    try:
        return Trace.from_dict(logged)
    except StudyError:  # a stranger's finding of the same name
        return None


def without_trace(findings: Mapping[str, Any]) -> dict[str, Any]:
    """Return findings without what a strategy logged step by step, which may be megabytes."""
    return {name: value for name, value in findings.items() if name != TRACE}


def notes_of(findings: Mapping[str, Any]) -> list[str]:
    """Return the sentences that a strategy wants whoever reads the result to know."""
    said = findings.get("notes")
    return [str(note) for note in said] if isinstance(said, list) else []


def plain(value: Any) -> Any:
    """Return a value as JSON can carry it: a stranger's strategy may report anything.

    Arrays become lists, numbers that are not finite become null, and what JSON has no word for
    its text.

    Examples:
        >>> plain({"a": np.arange(2), 3: float("nan")})
        {'a': [0, 1], '3': None}
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return json.loads(json.dumps(value))  # of subclasses, such as enumerations, the value
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
