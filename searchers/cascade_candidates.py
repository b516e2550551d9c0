"""Which cascades are worth measuring, from what their members answer to calibration images.

Numbers only: neither networks nor problems. Predictions rank candidates, and are corrected by what
is measured.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..spaces import non_dominated

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PAIR_THRESHOLDS = 48
"""Thresholds that are looked at for each first member."""

TRIPLE_THRESHOLDS = 12
"""Lower and upper thresholds that are looked at for each first member of three."""

TRIPLE_MEMBERS = 10
"""Members that triples are made of."""

UNSURE, SURER = 0.8, 0.3
"""Standard deviation of the logarithm of a predicted loss: before and after one like it was
measured."""

LOSS_CORRECTIONS = (0.1, 1000.0)
"""By how much a predicted loss is corrected: that of rare events may be as wrong."""

COST_CORRECTIONS = (0.25, 4.0)
"""By how much the predicted cost of redoing is corrected."""

TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Answers:
    """What ``M`` members answer to ``n`` calibration images, cheapest member first.

    Attributes:
        costs: ``M`` energies, ascending.
        confidences: ``M x n``, how sure each is.
        regrets: ``M x n``, how much less likely its answer is than the best one, under the
            reference.
        decision: Energy of a decision.
    """

    costs: Floats
    confidences: Floats
    regrets: Floats
    decision: float = 0.0


@dataclass(frozen=True, eq=False)
class Candidates:
    """``K`` cascades of ``S`` stages, with what is predicted of them.

    Attributes:
        members: ``K x S`` numbers of members.
        thresholds: ``K x (S - 1)``.
        ran: ``K x S``, the share of inputs that each member is run on.
        lost: ``K x S``, the mean regret of the answers that each member gives.
    """

    members: Integers
    thresholds: Floats
    ran: Floats
    lost: Floats

    def __len__(self) -> int:
        return len(self.members)

    def joined(self, other: "Candidates") -> "Candidates":
        """Return these and others, which may have another number of stages.

        Where they have fewer, their last member comes again, and is not run.
        """
        stages = max(self.members.shape[1], other.members.shape[1])
        first, second = self._widened(stages), other._widened(stages)
        return Candidates(
            *(
                np.concatenate([getattr(first, name), getattr(second, name)])
                for name in ("members", "thresholds", "ran", "lost")
            )
        )

    def _widened(self, stages: int) -> "Candidates":
        more = stages - self.members.shape[1]
        if not more:
            return self
        zeros = np.zeros((len(self), more))
        return Candidates(
            np.concatenate([self.members, np.repeat(self.members[:, -1:], more, axis=1)], axis=1),
            np.concatenate([self.thresholds, zeros], axis=1),
            np.concatenate([self.ran, zeros], axis=1),
            np.concatenate([self.lost, zeros], axis=1),
        )

    def stages(self, index: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return members and thresholds of one cascade."""
        members = tuple(dict.fromkeys(self.members[index].tolist()))
        return members, tuple(self.thresholds[index, : len(members) - 1].tolist())


def pairs(answers: Answers, thresholds: tuple[float, ...] = ()) -> Candidates:
    """Return the cascades of two members, at thresholds between the confidences of the first.

    Args:
        answers: What members answer.
        thresholds: Further thresholds.
    """
    count = answers.confidences.shape[1]
    rows: list[Candidates] = []
    for low in range(len(answers.costs) - 1):
        sure = answers.confidences[low]
        tried = np.array([*_between(sure, PAIR_THRESHOLDS), *thresholds])
        stays = sure >= tried[:, None]
        share = stays.mean(axis=1)
        kept = stays @ answers.regrets[low] / count
        for high in range(low + 1, len(answers.costs)):
            redone = np.logical_not(stays) @ answers.regrets[high] / count
            rows.append(
                Candidates(
                    np.tile(np.array([low, high]), (len(tried), 1)),
                    tried[:, None],
                    np.stack([np.ones_like(share), 1 - share], axis=1),
                    np.stack([kept, redone], axis=1),
                )
            )
    return _all(rows, 2)


def triples(
    answers: Answers, members: list[int], thresholds: tuple[tuple[float, float], ...] = ()
) -> Candidates:
    """Return the cascades of three of some members.

    Args:
        answers: What members answer.
        members: Their numbers, ascending.
        thresholds: Further pairs of thresholds.
    """
    count = answers.confidences.shape[1]
    rows: list[Candidates] = []
    for low, middle, high in itertools.combinations(members, 3):
        sure, second = answers.confidences[low], answers.confidences[middle]
        tried = _between(sure, TRIPLE_THRESHOLDS)
        both = np.array(
            [*((u, v) for u in tried for v in tried if v < u), *thresholds], dtype=np.float64
        ).reshape(-1, 2)
        stays = sure >= both[:, :1]
        between = np.logical_not(stays) & (sure >= both[:, 1:])
        content = between & (second >= both[:, 1:])
        last = np.logical_not(stays | content)
        shares = [np.ones(len(both)), between.mean(axis=1), last.mean(axis=1)]
        lost = [
            chosen @ answers.regrets[member] / count
            for chosen, member in ((stays, low), (content, middle), (last, high))
        ]
        rows.append(
            Candidates(
                np.tile(np.array([low, middle, high]), (len(both), 1)),
                both,
                np.stack(shares, axis=1),
                np.stack(lost, axis=1),
            )
        )
    return _all(rows, 3)


def smoothed(regrets: Floats, confidences: Floats) -> Floats:
    """Return regrets with those added that more images would show.

    Where a member agrees with the reference on all images it would not on ten times as many. Half
    an image of regret is spread over them, more on those that it is less sure of.

    Args:
        regrets: ``M x n``.
        confidences: ``M x n``.
    """
    doubt = 1.0 - confidences + np.finfo(np.float64).eps
    return np.asarray(regrets + 0.5 * doubt / doubt.sum(axis=1, keepdims=True))


@dataclass(eq=False)
class Predictor:
    """What cascades will cost and lose, corrected by what was measured.

    The loss of a cascade is the sum of what the answers of each member lose; that of a member at
    all inputs was measured, or is scaled as those of the others are. Where a cascade was measured,
    those with the same first member are corrected by what that one was wrong by.

    Attributes:
        answers: What members answer.
        candidates: The cascades.
        resolution: Losses smaller than this cannot be told from none: one image.
    """

    answers: Answers
    candidates: Candidates
    resolution: float
    _scales: dict[int, float] = field(default_factory=dict)
    _lost_more: dict[int, float] = field(default_factory=dict)
    _redone_more: dict[int, float] = field(default_factory=dict)

    def learn_member(self, member: int, loss: float) -> None:
        """Learn what a member loses if it answers everything."""
        predicted = float(self.answers.regrets[member].mean())
        self._scales[member] = (max(loss, 0.0) + self.resolution) / (predicted + self.resolution)

    def learn(self, index: int, loss: float, cost: float) -> None:
        """Learn what one of the candidates lost and cost."""
        first = int(self.candidates.members[index, 0])
        scaled = self.candidates.lost[index] * self._scale()[self.candidates.members[index]]
        more = (loss - scaled[1:].sum()) / max(scaled[0], TINY)
        self._lost_more[first] = float(np.clip(more, *LOSS_CORRECTIONS))
        least = self.answers.costs[first] + self.answers.decision
        plain = self._costs(np.ones(len(self.answers.costs)))[index]
        more = (cost - least) / max(plain - least, TINY)
        self._redone_more[first] = float(np.clip(more, *COST_CORRECTIONS))

    @property
    def losses(self) -> Floats:
        """What each candidate will lose, against the reference."""
        lost = self.candidates.lost * self._scale()[self.candidates.members]
        first = self.candidates.members[:, 0]
        lost[:, 0] *= self._by_member(self._lost_more)[first]
        return np.asarray(lost.sum(axis=1), dtype=np.float64)

    @property
    def costs(self) -> Floats:
        """What each candidate will cost."""
        return self._costs(self._by_member(self._redone_more))

    def ran(self, index: int) -> Floats:
        """Return the share of inputs that each stage of a candidate will be run on."""
        shares = self.candidates.ran[index].copy()
        first = int(self.candidates.members[index, 0])
        shares[1:] = np.minimum(shares[1:] * self._redone_more.get(first, 1.0), 1.0)
        return np.asarray(shares, dtype=np.float64)

    def front(self, among: npt.NDArray[np.bool_], most: float) -> Integers:
        """Return the candidates that no other is predicted to dominate, cheapest first.

        Args:
            among: Which candidates are compared.
            most: The largest loss that is looked at.
        """
        costs, losses = self.costs, self.losses
        numbers = np.flatnonzero(among & (losses <= most))
        kept = numbers[non_dominated(np.stack([costs, losses], axis=1)[numbers])]
        return np.asarray(kept[np.argsort(costs[kept], kind="stable")])

    def gains(self, best: float, tolerance: float) -> Floats:
        """Return how much of the cost each candidate is expected to save.

        Args:
            best: The smallest cost so far of what loses no more than the tolerance.
            tolerance: What may be lost; a share of all inputs.

        Returns:
            The saving where it is within the tolerance times how likely that is; 0 where there is
            no saving.
        """
        measured = np.isin(self.candidates.members[:, 0], list(self._lost_more))
        deviation = np.where(measured, SURER, UNSURE)
        allowed = np.log(max(tolerance, 0.0) + self.resolution)
        from scipy.special import ndtr  # the command line starts without scipy

        likely = ndtr((allowed - np.log(self.losses + self.resolution)) / deviation)
        return np.asarray(np.maximum(best - self.costs, 0.0) * likely)

    def _costs(self, more: Floats) -> Floats:
        by_stage = self.answers.costs[self.candidates.members]
        redone = (self.candidates.ran * by_stage)[:, 1:].sum(axis=1)
        numbers = self.candidates.members
        decides = numbers[:, 1:-1] != numbers[:, 2:]  # the last member of a pair is named twice
        decisions = 1.0 + (self.candidates.ran[:, 1:-1] * decides).sum(axis=1)
        first = numbers[:, 0]
        total = by_stage[:, 0] + more[first] * redone + decisions * self.answers.decision
        return np.asarray(total)

    def _scale(self) -> Floats:
        known = list(self._scales.values())
        usual = float(np.median(known)) if known else 1.0
        return np.array([self._scales.get(m, usual) for m in range(len(self.answers.costs))])

    def _by_member(self, known: dict[int, float]) -> Floats:
        return np.array([known.get(member, 1.0) for member in range(len(self.answers.costs))])


def _between(confidences: Floats, most: int) -> list[float]:
    """Return thresholds between neighbouring confidences, closer to each other where few are below.

    Few inputs are to be redone, so that it is there that thresholds matter.
    """
    values = np.sort(confidences[np.isfinite(confidences)])
    if len(values) < 2:
        return []
    below = np.unique(np.geomspace(1, len(values) - 1, most).round().astype(np.int64))
    middles = (values[below - 1] + values[below]) / 2
    apart = np.unique(middles[values[below - 1] < values[below]])
    return [float(threshold) for threshold in apart]


def _all(rows: list[Candidates], stages: int) -> Candidates:
    if not rows:
        return Candidates(
            np.zeros((0, stages), np.int64),
            np.zeros((0, stages - 1)),
            np.zeros((0, stages)),
            np.zeros((0, stages)),
        )
    return Candidates(
        *(
            np.concatenate([getattr(row, name) for row in rows])
            for name in ("members", "thresholds", "ran", "lost")
        )
    )
