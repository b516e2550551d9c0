"""The durable record of a study: every evaluation once, and who asked for it.

It is the cache (what was measured is not measured again), the log to go on from, and the audit
log. Evaluations are keyed by content: the workload's digest (weights, data, quantizer, code), the
allocation, the split, the fidelity, and the trained network if there is one, then with the version
of what deploys it. Strategies share them, yet each is charged for what it asked: `asks` holds every
question of every trial, in order. Sensitivity scores are kept likewise, by their signature. What a
trial saved last is kept until it is done; that of one which trained the network, longer.

One process writes; WAL lets others read meanwhile.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..models.trained import DEPLOYMENT_VERSION
from ..spaces import METRICS, Measurement, Scores, StudyError
from .requests import Request

SCHEMA_VERSION = 4
"""Version of the tables; what is older gets what it lacks, what is newer than this code is
refused."""

TrialState = Literal["planned", "running", "done", "failed"]

_BROWSED = (*METRICS, "samples", "wall_s", "error")
"""Fields of a measurement that have a column of their own, for those who browse."""

_VERSION_1 = f"""
CREATE TABLE evaluations (
    workload TEXT NOT NULL, allocation TEXT NOT NULL, split TEXT NOT NULL, fidelity REAL NOT NULL,
    {", ".join(_BROWSED)},
    measurement TEXT NOT NULL,
    measured_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (workload, allocation, split, fidelity)
);
CREATE TABLE trials (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL,
    strategy TEXT NOT NULL, budget TEXT NOT NULL, seed INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'planned', wall_s REAL NOT NULL DEFAULT 0, error TEXT
);
CREATE TABLE asks (
    trial TEXT NOT NULL REFERENCES trials, position INTEGER NOT NULL,
    workload TEXT NOT NULL, allocation TEXT NOT NULL, split TEXT NOT NULL, fidelity REAL NOT NULL,
    PRIMARY KEY (trial, position)
);
"""

_VERSION_2 = """
CREATE TABLE scores (signature TEXT PRIMARY KEY, kind TEXT NOT NULL, scores TEXT NOT NULL);
ALTER TABLE trials ADD COLUMN images_forward INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trials ADD COLUMN images_backward INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trials ADD COLUMN findings TEXT NOT NULL DEFAULT '{}';
"""

_VERSION_3 = """
CREATE TABLE checkpoints (trial TEXT PRIMARY KEY, signature TEXT NOT NULL, data BLOB NOT NULL);
"""

_EVALUATED = ", ".join(
    ("workload, allocation, split, fidelity", *_BROWSED, "measurement, measured_at")
)

_VERSION_4 = f"""
ALTER TABLE evaluations RENAME TO evaluations_3;
CREATE TABLE evaluations (
    workload TEXT NOT NULL, allocation TEXT NOT NULL, split TEXT NOT NULL, fidelity REAL NOT NULL,
    network TEXT NOT NULL DEFAULT '',
    {", ".join(_BROWSED)},
    measurement TEXT NOT NULL,
    measured_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (workload, allocation, split, fidelity, network)
);
INSERT INTO evaluations ({_EVALUATED}) SELECT {_EVALUATED} FROM evaluations_3;
DROP TABLE evaluations_3;
ALTER TABLE asks ADD COLUMN network TEXT NOT NULL DEFAULT '';
"""

_STEPS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""What makes each version of the one before."""

_KEY = "workload, allocation, split, fidelity, network"


@dataclass(frozen=True, slots=True)
class OwnWork:
    """What a strategy did besides asking for evaluations.

    Attributes:
        images_forward: Images it passed through the network itself.
        images_backward: Images it passed backward.
        findings: What it wants reported, plain values by name.
        trained: Whether it trained the network: then what it saved in the end is kept, so that
            nothing is trained again. The ledger itself does not tell.
    """

    images_forward: int = 0
    images_backward: int = 0
    findings: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = False


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial as the ledger knows it.

    Attributes:
        id: Its name, unique in the study.
        strategy: Label of its strategy.
        budget: Label of its budget.
        seed: Its seed.
        state: How far it is.
        wall_s: Seconds it took.
        error: Why it failed.
        own: What its strategy did besides asking for evaluations.
    """

    id: str
    strategy: str
    budget: str
    seed: int
    state: TrialState = "planned"
    wall_s: float = 0.0
    error: str | None = None
    own: OwnWork = OwnWork()


class Ledger:
    """A ledger file, made if there is none.

    Args:
        path: The file.

    Raises:
        StudyError: If it is no ledger, was written by a newer version, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # The owner is one actor or one thread at a time, though not always the same thread.
            self._db = sqlite3.connect(path, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            version = self._open()
        except sqlite3.Error as error:
            self.close()
            raise _unusable(path, error) from error
        if version > SCHEMA_VERSION:
            self.close()
            raise StudyError(
                f"the ledger {path} has version {version} and this bitfront knows up to "
                f"{SCHEMA_VERSION}: update bitfront, or choose another output folder"
            )

    def _open(self) -> int:
        """Add the tables and columns that are missing, and return the version there is now."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if self._version() < SCHEMA_VERSION:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")  # another process may be at it
                for statement in ";".join(_STEPS[self._version() :]).split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return self._version()

    def _version(self) -> int:
        with closing(self._db.execute("PRAGMA user_version")) as found:
            version: int = found.fetchone()[0]
        return version

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write all or nothing.

        Raises:
            StudyError: If the file cannot be written.
        """
        try:
            with self._db:
                yield
        except sqlite3.Error as error:
            raise StudyError(
                f"cannot write the ledger {self.path}: {error}; make room there, or make it "
                f"writable, and run the study again: it goes on from here"
            ) from error

    def close(self) -> None:
        """Close the file; what was put is in it."""
        self._db.close()

    def get(
        self, workload: str, requests: Iterable[Request], *, failed: bool = False
    ) -> dict[Request, Measurement]:
        """Return what is known of some requests.

        Failed evaluations stay on record but are not returned: they are tried again.

        Args:
            workload: What is measured.
            requests: What is asked.
            failed: Whether to return those that failed, and no others.
        """
        found = {}
        for request in requests:
            row = self._db.execute(
                f"SELECT measurement FROM evaluations WHERE ({_KEY}) = (?, ?, ?, ?, ?) "
                "AND (error IS NOT NULL) = ?",
                (*_key(workload, request), failed),
            ).fetchone()
            if row is not None:
                found[request] = Measurement.from_dict(json.loads(row[0]))
        return found

    def put(self, workload: str, measurements: Sequence[Measurement]) -> None:
        """Record evaluations, in place of earlier ones of the same key, all of them or none."""
        columns = (_KEY, *_BROWSED, "measurement")
        rows = []
        for measurement in measurements:
            values = measurement.to_dict()
            key = _key(workload, Request.answered_by(measurement))
            rows.append((*key, *(values[name] for name in _BROWSED), json.dumps(values)))
        with self._writing():
            self._db.executemany(
                f"INSERT OR REPLACE INTO evaluations ({', '.join(columns)}) "
                f"VALUES ({', '.join('?' * len(rows[0]))})",
                rows,
            )

    def plan(self, trials: Sequence[TrialRow]) -> None:
        """Set the trials of a run, in place of those of an earlier one.

        Evaluations stay, and checkpoints of trials that are planned again.
        """
        with self._writing():
            self._db.execute("DELETE FROM asks")
            self._db.execute("DELETE FROM trials")
            self._db.executemany(
                "INSERT INTO trials (id, position, strategy, budget, seed) VALUES (?, ?, ?, ?, ?)",
                [(t.id, index, t.strategy, t.budget, t.seed) for index, t in enumerate(trials)],
            )
            self._db.execute("DELETE FROM checkpoints WHERE trial NOT IN (SELECT id FROM trials)")

    def begin(self, trial: str) -> None:
        """Mark a trial as running; one that begins again forgets what it had asked."""
        with self._writing():
            self._db.execute("DELETE FROM asks WHERE trial = ?", (trial,))
            self._db.execute("UPDATE trials SET state = 'running' WHERE id = ?", (trial,))

    def charge(self, trial: str, workload: str, requests: Sequence[Request]) -> None:
        """Record that a trial asked, the same question twice if it did so twice."""
        with self._writing():
            (asked,) = self._db.execute(
                "SELECT count(*) FROM asks WHERE trial = ?", (trial,)
            ).fetchone()
            self._db.executemany(
                f"INSERT INTO asks (trial, position, {_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (trial, asked + index, *_key(workload, request))
                    for index, request in enumerate(requests)
                ],
            )

    def end(
        self, trial: str, wall_s: float, error: str | None = None, own: OwnWork | None = None
    ) -> None:
        """Mark a trial as done, or as failed where there is an error, with its own work.

        One that is done needs its checkpoint no more, unless it trained the network.
        """
        state = "done" if error is None else "failed"
        own = own or OwnWork()
        findings = json.dumps(own.findings, allow_nan=False)
        with self._writing():
            self._db.execute(
                "UPDATE trials SET state = ?, wall_s = ?, error = ?, images_forward = ?, "
                "images_backward = ?, findings = ? WHERE id = ?",
                (state, wall_s, error, own.images_forward, own.images_backward, findings, trial),
            )
            if error is None and not own.trained:
                self._db.execute("DELETE FROM checkpoints WHERE trial = ?", (trial,))

    def checkpoint(self, trial: str, signature: str | None = None) -> bytes | None:
        """Return what a trial saved last; None if it saved nothing under this signature, if any."""
        row = self._db.execute(
            "SELECT data FROM checkpoints WHERE trial = ? AND signature = coalesce(?, signature)",
            (trial, signature),
        ).fetchone()
        return None if row is None else bytes(row[0])

    def put_checkpoint(self, trial: str, signature: str, data: bytes) -> None:
        """Keep what a trial saves, in place of what it saved before."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO checkpoints (trial, signature, data) VALUES (?, ?, ?)",
                (trial, signature, data),
            )

    def scores(self, signature: str) -> Scores | None:
        """Return the sensitivity scores of a signature, if there are any."""
        row = self._db.execute(
            "SELECT scores FROM scores WHERE signature = ?", (signature,)
        ).fetchone()
        return None if row is None else Scores.from_dict(json.loads(row[0]))

    def put_scores(self, scores: Scores) -> None:
        """Keep sensitivity scores, in place of earlier ones of the same signature."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO scores (signature, kind, scores) VALUES (?, ?, ?)",
                (scores.signature, scores.kind, json.dumps(scores.to_dict(), allow_nan=False)),
            )

    def trials(self) -> list[TrialRow]:
        """Return the trials in the order they were planned."""
        rows = self._db.execute(
            "SELECT id, strategy, budget, seed, state, wall_s, error, "
            "images_forward, images_backward, findings FROM trials ORDER BY position"
        )
        return [
            replace(TrialRow(*row), own=OwnWork(forward, backward, json.loads(findings)))
            for *row, forward, backward, findings in rows
        ]

    def history(self, trial: str) -> list[Measurement]:
        """Return what a trial was answered, in the order it asked, the failed ones too."""
        rows = self._db.execute(
            f"SELECT measurement FROM asks JOIN evaluations USING ({_KEY}) "
            "WHERE trial = ? ORDER BY asks.position",
            (trial,),
        )
        return [Measurement.from_dict(json.loads(text)) for (text,) in rows]

    def networks(self, trial: str) -> set[str]:
        """Return the digests of the trained networks a trial asked about, answered or not."""
        rows = self._db.execute(
            "SELECT DISTINCT network FROM asks WHERE trial = ? AND network != ''", (trial,)
        )
        return {digest for (digest,) in rows}

    def rows(self) -> list[dict[str, Any]]:
        """Return every ask with its answer as plain values, one row each, in order."""
        of_trial = ("trials.strategy", "trials.budget", "trials.seed")
        of_ask = tuple(
            f"asks.{name}" for name in ("position", "allocation", "split", "fidelity", "network")
        )
        columns = (*of_trial, *of_ask, *(f"evaluations.{name}" for name in _BROWSED))
        rows = self._db.execute(
            f"SELECT {', '.join(columns)} FROM asks JOIN trials ON asks.trial = trials.id "
            f"JOIN evaluations USING ({_KEY}) ORDER BY trials.position, asks.position"
        )
        names = [column.partition(".")[2] for column in columns]
        return [dict(zip(names, row, strict=True)) for row in rows]


def _unusable(path: Path, error: Exception) -> StudyError:
    return StudyError(f"the ledger {path} cannot be used: {error}")


def _key(workload: str, request: Request) -> tuple[str, str, str, float, str]:
    if request.network:
        workload = f"{workload} {DEPLOYMENT_VERSION}"
    return workload, request.allocation.key, request.split, request.fidelity, request.network
