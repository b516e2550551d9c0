"""The bookkeeping of a running study: the ledger, under today's prices, and the scoreboard."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..searchers import Pricing
from ..searchers.checkpoint import Checkpoint
from ..spaces import Measurement, Objective, Scores, SpaceError, StudyError
from .checkpoints import Checkpoints
from .ledger import Ledger, OwnWork, TrialRow
from .networks import NetworkFiles
from .progress import ProgressEvent
from .requests import Request, priced
from .scoreboard import Scoreboard
from .trials import Trial, front_of

LEDGER_FILE = "ledger.sqlite"


@dataclass(frozen=True)
class Books:
    """What a record is opened with.

    Attributes:
        folder: The study's folder.
        workload: Digest of what is measured.
        pricing: What allocations cost, also those an earlier run measured under another table.
        trials: What is going to run.
        objectives: What is compared.
    """

    folder: Path
    workload: str
    pricing: Pricing
    trials: tuple[Trial, ...]
    objectives: tuple[Objective, ...]


class Record:
    """Says what is known, takes down what is new, and who asked.

    Args:
        books: What to keep.

    Raises:
        StudyError: If the folder's ledger cannot be used.
    """

    def __init__(self, books: Books) -> None:
        self._ledger = Ledger(books.folder / LEDGER_FILE)
        self._ledger.plan([trial.row() for trial in books.trials])
        self._checkpoints = Checkpoints(self._ledger)
        self._networks = NetworkFiles(books.folder)
        self._books = books
        self._workload = books.workload
        self._energy = books.pricing.energy
        self._scoreboard = Scoreboard(books.trials, books.objectives, books.pricing)

    def close(self) -> None:
        """Close the ledger; all that trials saved is in it."""
        self._checkpoints.close()
        self._ledger.close()

    def begin(self, trial: str) -> None:
        """Note that a trial starts, for the first time or over again."""
        self._ledger.begin(trial)
        self._scoreboard.begin(trial)

    def end(self, trial: str, wall_s: float, error: str | None, own: OwnWork) -> None:
        """Note that a trial has ended, the error if it failed, and what it did by itself."""
        self._checkpoints.end(trial)
        self._ledger.end(trial, wall_s, error, own)
        self._scoreboard.end(trial, error)
        self._drop_networks(trial)

    def charge(self, trial: str, requests: Sequence[Request]) -> None:
        """Charge a trial for what it asks, known or not."""
        self._ledger.charge(trial, self._workload, requests)

    def put_networks(self, networks: Mapping[str, bytes]) -> None:
        """Keep trained networks by their digests."""
        for digest, data in networks.items():
            self._networks.put(digest, data)

    def _drop_networks(self, trial: str) -> None:
        """Delete the networks that a trial which has ended needs no more: there may be hundreds."""
        books = self._books
        ended = next(other for other in books.trials if other.id == trial)
        if not ended.trains:
            return
        dropped = {d for d in self._ledger.networks(trial) if d in self._networks}
        dropped -= self._found(ended)
        # Another label, budget or seed may have trained the very same networks.
        have_ended = {row.id for row in self._ledger.trials() if row.state in ("done", "failed")}
        for other in books.trials:
            if not dropped:
                return
            if other.id == trial or not other.trains:
                continue
            if other.id not in have_ended:
                dropped -= self._wanted(other.id)
            elif not dropped.isdisjoint(self._ledger.networks(other.id)):
                dropped -= self._found(other)
        self._networks.delete(dropped)

    def _found(self, trial: Trial) -> set[str]:
        """Return the trained networks on the front of a trial that has ended."""
        history = self._ledger.history(trial.id)
        front = front_of(trial, history, self._books.objectives, self._books.pricing)
        return {measurement.network for measurement in front if measurement.network is not None}

    def _wanted(self, trial: str) -> set[str]:
        """Return the networks a trial that has not ended asked about, or will when it goes on.

        Where it goes on from a checkpoint it has their digests only.
        """
        asked = self._ledger.networks(trial)
        saved = self._checkpoints.get(trial)
        if saved is None:
            return asked
        with suppress(StudyError, SpaceError):  # damaged: it starts over
            asked |= {network for _, _, network in Checkpoint.from_bytes(saved).asked}
        return asked

    def network(self, digest: str) -> bytes | None:
        """Return a trained network; None if it is not there."""
        return self._networks.get(digest)

    def keep_networks(self, digests: Collection[str]) -> None:
        """Delete all trained networks but these."""
        self._networks.keep_only(digests)

    def find(self, request: Request) -> Measurement | None:
        """Return the answer to a request if it was measured before.

        What failed is measured again, unless its trained network is gone: then it would only fail
        for that.
        """
        known = self._ledger.get(self._workload, [request]).get(request)
        if known is None and request.network and request.network not in self._networks:
            known = self._ledger.get(self._workload, [request], failed=True).get(request)
        if known is None or self._was_priced_otherwise(known):
            return None
        current = priced(known, self._energy)
        if current.to_dict() != known.to_dict():
            self._ledger.put(self._workload, [current])
        return current

    def _was_priced_otherwise(self, known: Measurement) -> bool:
        """Whether energies of inputs are under other prices, and can only be measured again."""
        usage = known.dynamic
        return usage is not None and usage.priced_by != self._energy.digest

    def add(self, measurement: Measurement) -> None:
        """Take down a new measurement."""
        self._ledger.put(self._workload, [measurement])

    def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        return self._ledger.scores(signature)

    def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores."""
        self._ledger.put_scores(scores)

    def checkpoint(self, trial: str, signature: str) -> bytes | None:
        """Return what a trial saved last, if it did so under this signature and never ended."""
        return self._checkpoints.get(trial, self._whole(signature))

    def put_checkpoint(self, trial: str, signature: str, data: bytes) -> None:
        """Keep what a trial saves, in place of what it saved before."""
        self._checkpoints.put(trial, self._whole(signature), data)

    def _whole(self, signature: str) -> str:
        """Return a trial's signature with that of what is measured."""
        return f"{self._workload} {signature}"

    def answered(self, trial: str, measurement: Measurement) -> None:
        """Count an answer that a trial gets."""
        self._scoreboard.add(trial, measurement)

    def progress(self) -> ProgressEvent:
        """Return where the search stands."""
        return self._scoreboard.event()

    def history(self, trial: str) -> list[Measurement]:
        """Return what a trial was answered, in the order it asked."""
        return self._ledger.history(trial)

    def trials(self) -> list[TrialRow]:
        """Return how the trials went, in order."""
        return self._ledger.trials()
