"""Where a trial brings what it asks and what it wants kept; light, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..spaces import Measurement, Scores
from .ledger import OwnWork
from .requests import Request


class ScoreKeeper(Protocol):
    """What has the sensitivity scores of a study, which all of its trials share."""

    def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        ...

    def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores."""


class TrialDesk(ScoreKeeper, Protocol):
    """Where a trial brings its questions: it answers, charges and records."""

    def begin(self, trial: str) -> None:
        """Note that a trial starts, for the first time or over again."""

    def evaluate(
        self,
        requests: Sequence[Request],
        trial: str | None = None,
        networks: Mapping[str, bytes] | None = None,
    ) -> list[Measurement]:
        """Answer requests in order, charged to a trial unless that is None.

        Args:
            requests: What is asked.
            trial: Who asks.
            networks: The trained networks that are asked about and handed over with this, by their
                digests; they are kept.
        """
        ...

    def checkpoint(self, trial: str, signature: str) -> bytes | None:
        """Return what a trial saved last, if it did so under this signature and never ended."""
        ...

    def put_checkpoint(self, trial: str, signature: str, data: bytes) -> None:
        """Keep what a trial saves, in place of what it saved before; need not wait until it is."""

    def end(self, trial: str, wall_s: float, error: str | None, own: OwnWork) -> None:
        """Note that a trial has ended, the error if it failed, and what it did by itself."""


@dataclass(frozen=True)
class SharedScores:
    """The scores of a study as a strategy's problem reaches them."""

    keeper: ScoreKeeper

    def get(self, signature: str) -> Scores | None:
        """Return the scores of that signature, if there are any."""
        return self.keeper.scores(signature)

    def put(self, scores: Scores) -> None:
        """Keep scores under their signature."""
        self.keeper.put_scores(scores)


@dataclass(frozen=True)
class TrialCheckpoints:
    """The checkpoints of one trial as its problem reaches them.

    Attributes:
        desk: What keeps them.
        trial: The trial's name.
        signature: What the trial is; what another one of that name saved is not returned.
    """

    desk: TrialDesk
    trial: str
    signature: str

    def get(self) -> bytes | None:
        """Return what the trial saved last before it was interrupted."""
        return self.desk.checkpoint(self.trial, self.signature)

    def put(self, data: bytes) -> None:
        """Keep what the trial saves now."""
        self.desk.put_checkpoint(self.trial, self.signature, data)
