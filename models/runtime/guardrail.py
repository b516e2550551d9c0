"""When a level is not what it was measured to be, and when it is again.

A guardrail knows outcomes only: of which level, by which signal, and whether it was bad. So it is
tested without a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ...spaces import ModelError
from .chance import most_expected

Signal = Literal["agreement", "accuracy", "confidence"]

SIGNALS: tuple[Signal, ...] = get_args(Signal)

_SHORTEST = 8
"""Fewest inputs that are judged together."""

_RETURN_SIGMAS = 0.0
"""What chance may explain of a drop before a level is taken again: nothing, it has to do as well as
usual. Between that and `GuardSettings.sigmas` is the hysteresis."""


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """What is watched, and how patiently.

    ``agreement``: whether the top-1 answer is that of the highest level, which runs in the shadow
    on every ``check_every``-th input. ``accuracy``: whether it is the label. ``confidence``:
    whether the level is surer than of those inputs that it was wrong about at set-up
    (``ATC``, Garg et al., arXiv:2201.04234), an estimate of accuracy that needs no labels while it
    runs. The last two are free at the level in force; the level below is tried in the shadow.

    Attributes:
        signals: What is watched; one is enough to roll back, all are needed to return.
        tolerance: Drop that is accepted, as a share.
        window: Most checked inputs that are judged together after each one.
        memory: Most that are judged together at all, for small drops that last; what is longer than
            the window is judged the more rarely the longer it is. Up to the window it adds nothing.
        check_every: Every so-many-th input is run in the shadow.
        sigmas: Of a normal distribution, how unlikely a drop has to be by chance. At 5 a level
            that is as it was measured is left once in a million checks or so.
        patience: Checks of the level below before it is taken again.
        max_patience: Most that patience grows to: it doubles when a level is left soon after it
            was taken.

    Raises:
        ModelError: If a value is out of its range.
    """

    signals: tuple[Signal, ...] = ("agreement", "confidence")
    tolerance: float = 0.007
    window: int = 128
    memory: int = 1024
    check_every: int = 8
    sigmas: float = 5.0
    patience: int = 48
    max_patience: int = 1024

    def __post_init__(self) -> None:
        unknown = [signal for signal in self.signals if signal not in SIGNALS]
        if unknown or not self.signals or len(set(self.signals)) < len(self.signals):
            raise ModelError(
                f"a guardrail watches some of {', '.join(SIGNALS)}, got {list(self.signals)}"
            )
        if not 0 <= self.tolerance < 1:
            raise ModelError(f"tolerance is a share in [0, 1), got {self.tolerance}")
        if not 0 < self.sigmas <= 8:
            raise ModelError(f"sigmas is over 0 and at most 8, got {self.sigmas}")
        if self.window < _SHORTEST:
            raise ModelError(f"window is at least {_SHORTEST} inputs, got {self.window}")
        if self.memory < 0:
            raise ModelError(f"memory is at least 0 inputs, got {self.memory}")
        if self.check_every < 1:
            raise ModelError(f"check_every is at least 1, got {self.check_every}")
        if not 1 <= self.patience <= self.max_patience:
            raise ModelError(
                f"patience is from 1 to max_patience, got {self.patience} and {self.max_patience}"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many of the last checked inputs are judged together after each one."""
        return _doubling(_SHORTEST, self.window)

    @property
    def long_lengths(self) -> tuple[int, ...]:
        """How many are judged together besides, each after as many as `_rarely` says."""
        return _doubling(self.window, self.memory)[1:]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self) | {"signals": list(self.signals)}


def _doubling(first: int, last: int) -> tuple[int, ...]:
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return (*found, last)


def _rarely(length: int) -> int:
    """Return after how many checked inputs each so many of the last are judged.

    A long stretch changes little from one to the next. Judged so much more rarely, chance may be so
    much likelier to explain a drop in it, and it misleads no more often than the shortest one.
    """
    return length // _SHORTEST


@dataclass(frozen=True)
class Expected:
    """What a level was measured to be, on data such as is to come.

    Attributes:
        inputs: How many were measured.
        bad: How many of them were bad, by signal.
    """

    inputs: int
    bad: Mapping[Signal, int]


@dataclass(frozen=True, slots=True)
class Move:
    """A level that is to be in force from the next input on.

    Attributes:
        to: Its number.
        reason: Why.
    """

    to: int
    reason: str


class Guardrail:
    """Decides from outcomes which level is in force.

    Args:
        settings: What is watched, and how.
        expected: Of every level but the highest.

    Raises:
        ModelError: If a signal that is watched was not measured.
    """

    def __init__(self, settings: GuardSettings, expected: Sequence[Expected]) -> None:
        for level in expected:
            if missing := [signal for signal in settings.signals if signal not in level.bad]:
                hint = ": labels are needed" if missing[0] == "accuracy" else ""
                raise ModelError(f"{missing[0]} was not measured at set-up{hint}")
        self.settings = settings
        self.patience = settings.patience
        self._expected = tuple(expected)
        self._highest = len(expected)
        self._most = [self._limits(level, settings.lengths, settings.sigmas) for level in expected]
        self._most_long = [self._long_limits(level) for level in expected]
        self._returns: dict[tuple[int, int], Mapping[Signal, Mapping[int, int]]] = {}
        self._outcomes = [self._windows() for _ in range(self._highest + 1)]
        self._taken_at: int | None = None

    def observe(self, level: int, outcomes: Mapping[Signal, bool]) -> None:
        """Note what a level made of one input.

        Args:
            level: Which.
            outcomes: Whether it was bad, by signal, as far as that is known.
        """
        for signal, bad in outcomes.items():
            self._outcomes[level][signal].add(bad)

    def decide(self, floor: int) -> Move | None:
        """Return the level to go to; None to stay.

        Args:
            floor: The level in force.
        """
        if floor < self._highest and (reason := self._drop(floor)):
            return Move(self._highest, reason)
        if floor > 0 and (reason := self._return(floor - 1)):
            return Move(floor - 1, reason)
        return None

    def moved(self, before: int, to: int, number: int) -> None:
        """Note that another level is in force.

        Args:
            before: The level that was in force.
            to: The one that is.
            number: Of the input from which on.
        """
        if to < before:
            self._taken_at = number
            for outcomes in self._outcomes[to].values():
                outcomes.keep(self.patience)  # what was before led to its not being taken
            return
        soon = max(self.settings.window, self.settings.memory) * self.settings.check_every
        if self._taken_at is not None and number - self._taken_at <= soon:
            self.patience = min(2 * self.patience, self.settings.max_patience)
        else:
            self.patience = self.settings.patience
        for level in range(self._highest):
            self.forget(level)

    def forget(self, level: int) -> None:
        """Judge a level by what is to come only."""
        self._outcomes[level] = self._windows()

    def good_share(self, level: int, signal: Signal) -> tuple[float | None, int]:
        """Return which share of the last window was good, and of how many; None of none."""
        outcomes = self._outcomes[level][signal]
        count = min(len(outcomes), self.settings.window)
        return (1 - outcomes.bad(count) / count if count else None), count

    def _drop(self, level: int) -> str | None:
        """Return why a level is to be left, if it is."""
        for signal, most in self._most[level].items():
            outcomes = self._outcomes[level][signal]
            for length, largest in most.items():
                if len(outcomes) < length:
                    break
                if outcomes.bad(length) > largest:
                    return self._dropped(level, signal, length)
            for length, largest in self._most_long[level][signal].items():
                if len(outcomes) < length:
                    break
                if outcomes.count % _rarely(length) == 0 and outcomes.bad(length) > largest:
                    return self._dropped(level, signal, length)
        return None

    def _dropped(self, level: int, signal: Signal, length: int) -> str:
        share = 1 - self._outcomes[level][signal].bad(length) / length
        usual = self._usual(level, signal)
        return f"{signal} {share:.3f} over the last {length} checked inputs, {usual:.3f} expected"

    def _return(self, level: int) -> str | None:
        """Return why a level may be taken again, if it may."""
        length = self.patience
        key = (level, length)
        if key not in self._returns:
            self._returns[key] = self._limits(self._expected[level], (length,), _RETURN_SIGMAS)
        shares = []
        for signal, most in self._returns[key].items():
            outcomes = self._outcomes[level][signal]
            if len(outcomes) < length or (bad := outcomes.bad(length)) > most[length]:
                return None
            usual = self._usual(level, signal)
            shares.append(f"{signal} {1 - bad / length:.3f} ({usual:.3f} expected)")
        return f"{' and '.join(shares)} over the last {length} checked inputs"

    def _usual(self, level: int, signal: Signal) -> float:
        expected = self._expected[level]
        return 1 - expected.bad[signal] / expected.inputs

    def _limits(
        self, level: Expected, lengths: Sequence[int], sigmas: float
    ) -> Mapping[Signal, Mapping[int, int]]:
        tolerance = self.settings.tolerance
        return {
            signal: most_expected(level.bad[signal], level.inputs, tolerance, lengths, sigmas)
            for signal in self.settings.signals
        }

    def _long_limits(self, level: Expected) -> Mapping[Signal, Mapping[int, int]]:
        settings = self.settings
        found: dict[Signal, Mapping[int, int]] = {}
        for signal in settings.signals:
            known = (level.bad[signal], level.inputs, settings.tolerance)
            found[signal] = {
                length: most_expected(*known, (length,), settings.sigmas, _rarely(length))[length]
                for length in settings.long_lengths
            }
        return found

    def _windows(self) -> Mapping[Signal, "_Outcomes"]:
        settings = self.settings
        size = max(settings.window, settings.memory, settings.max_patience)
        return {signal: _Outcomes(size) for signal in SIGNALS}


class _Outcomes:
    """The last outcomes of a level by a signal; how many were bad is known at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sums = [0]
        self.count = 0

    def __len__(self) -> int:
        return len(self._sums) - 1

    def add(self, bad: bool) -> None:
        self.count += 1
        self._sums.append(self._sums[-1] + bad)
        if len(self._sums) > 2 * self._size + 1:
            del self._sums[: self._size]

    def keep(self, last: int) -> None:
        """Forget all but the last so many."""
        self._sums = self._sums[-1 - last :]

    def bad(self, last: int) -> int:
        """Return how many of the last so many were bad."""
        return self._sums[-1] - self._sums[-1 - last]
