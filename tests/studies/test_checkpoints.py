import pytest

from bitfront.studies.checkpoints import Checkpoints
from bitfront.studies.ledger import Ledger


class Clock:
    """Time that passes only while something is written: as many seconds as there are bytes."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    class Slow(Ledger):
        def put_checkpoint(self, trial, signature, data):
            clock.now += len(data)
            super().put_checkpoint(trial, signature, data)

    opened = Slow(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def test_writing_takes_a_twentieth_of_the_time(ledger, clock):
    checkpoints, written = Checkpoints(ledger, clock), []
    for step in range(1000):
        clock.now += 1
        before = clock.now
        checkpoints.put("a", "s", b"%03d" % step)
        if clock.now > before:
            written.append(step)
    assert written == list(range(0, 1000, 60))
    assert ledger.checkpoint("a", "s") == b"960"


def test_many_trials_share_that_time(ledger, clock):
    checkpoints, spent = Checkpoints(ledger, clock), 0.0
    for _ in range(1000):
        clock.now += 1
        before = clock.now
        for trial in "abcd":
            checkpoints.put(trial, "s", b"x")
        spent += clock.now - before
    assert spent == pytest.approx(0.05 * clock.now, rel=0.2)


def test_a_step_that_takes_long_is_always_written(ledger, clock):
    checkpoints = Checkpoints(ledger, clock)
    for step in (b"1", b"2", b"3"):
        clock.now += 60
        checkpoints.put("a", "s", step)
        assert ledger.checkpoint("a", "s") == step


def test_what_waits_is_written_when_it_is_asked_for_and_at_the_end(ledger, clock):
    checkpoints = Checkpoints(ledger, clock)
    for trial in "abc":
        checkpoints.put(trial, "s", b"first")
        checkpoints.put(trial, "s", b"last")
        assert ledger.checkpoint(trial, "s") == b"first"
    assert checkpoints.get("a", "s") == b"last"
    checkpoints.end("b")
    assert ledger.checkpoint("b", "s") == b"last"
    checkpoints.close()
    assert ledger.checkpoint("c", "s") == b"last"
    assert checkpoints.get("d", "s") is None
