"""Trials as Ray Tune trials."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from ..searchers import ModelSource
from .desk import TrialDesk
from .trials import Ground, Trial, run_trial

_TRIAL_MEMORY_BYTES = 64 * 2**20
"""What a trial reserves, besides its share of a GPU. It reserves no CPU, since workers may hold all
of them, yet Tune wants something."""

_LOOK_INTERVAL_S = 0.25


def run_tune_trials(
    trials: Sequence[Trial],
    ground: Ground,
    desk: TrialDesk,
    model: ModelSource,
    *,
    folder: Path,
    at_once: int,
    gpus: float,
    look: Callable[[], None],
) -> str | None:
    """Run trials to their ends, each in a process that may serve several.

    A strategy that raises is recorded at the desk and is no failure to Tune; a process that dies
    is started once more, and its trial with it.

    Args:
        trials: What to run.
        ground: What they share.
        desk: Where their questions go.
        model: The network, for strategies that look into it.
        folder: Where Tune keeps its files; emptied first.
        at_once: How many run at the same time.
        gpus: Share of a GPU of each that trains.
        look: Called in this thread a few times a second.

    Returns:
        Why processes died for good; None if none did.
    """
    shutil.rmtree(folder, ignore_errors=True)
    function = tune.with_parameters(
        _run_one, trials=list(trials), ground=ground, desk=desk, model=model
    )
    reserved = [_reserved(gpus if trial.trains else 0.0) for trial in trials]
    # What happens to trials is in the ledger; Tune would print tracebacks of it as well.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    results = tune.Tuner(
        tune.with_resources(function, lambda config: reserved[config["trial"]]),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[_Watch(look)],
        ),
    ).fit()
    return _reason(results.errors[0]) if results.errors else None


def _reserved(gpus: float) -> tune.PlacementGroupFactory:
    bundle: dict[str, float] = {"memory": _TRIAL_MEMORY_BYTES}
    return tune.PlacementGroupFactory([bundle | {"GPU": gpus} if gpus > 0 else bundle])


def _reason(error: BaseException) -> str:
    """Return the first sentence of an error's last line, where Ray says what happened."""
    return str(error).strip().splitlines()[-1].partition(". ")[0]


def _run_one(
    config: Mapping[str, Any],
    *,
    trials: Sequence[Trial],
    ground: Ground,
    desk: TrialDesk,
    model: ModelSource,
) -> None:
    run_trial(trials[config["trial"]], ground, desk, model)


class _Watch(TrialProgressCallback):
    """Lets the driver look at the search from Tune's own loop, without a thread.

    It takes the place of Tune's printer, which tells of ended trials at any verbosity.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self._look = look
        self._next = 0.0

    def on_trial_complete(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        """Print nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its settings, and a terminal cannot be saved

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        """Look, if it is time to."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _LOOK_INTERVAL_S
            self._look()
