"""Writing runs to MLflow."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..searchers.trace import Trace
from .mlflow_views import ROLE_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000
"""The most metrics that MLflow takes in one request."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Writes whole runs of one experiment, each in the fewest requests MLflow allows.

    Attributes:
        client: The store.
        experiment_id: The experiment's identifier in it.
        study: The study's name, which every run is tagged with.
    """

    client: "MlflowClient"
    experiment_id: str
    study: str

    def log(
        self,
        name: str,
        *,
        role: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        """Create a run with its values and return its identifier; `finish` ends it."""
        from mlflow.entities import Metric, Param

        run = self.client.create_run(
            self.experiment_id,
            run_name=name,
            tags={ROLE_TAG: role, "bitfront.study": self.study, **tags},
        )
        now_ms = time.time_ns() // 1_000_000
        self.client.log_batch(
            run.info.run_id,
            metrics=[
                Metric(key, float(value), now_ms, 0)
                for key, value in metrics.items()
                if math.isfinite(value)  # MLflow's charts stumble over NaN
            ],
            params=[Param(key, text_of(value)) for key, value in params.items()],
        )
        return str(run.info.run_id)

    def log_steps(self, run_id: str, trace: Trace) -> None:
        """Log the metrics of a trace to a run, with the step of each value."""
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        values = [
            Metric(metric_key(trace.step, name), value, now_ms, step)
            for name, column in trace.metrics.items()
            for step, value in enumerate(column)
            if value is not None
        ]
        for start in range(0, len(values), _BATCH):
            self.client.log_batch(run_id, metrics=values[start : start + _BATCH])

    def finish(self, run_id: str) -> None:
        """Mark a run as finished."""
        self.client.set_terminated(run_id)


def metric_key(step: str, name: str) -> str:
    """Return what a metric of a trace is called, without what MLflow takes in no name.

    Examples:
        >>> metric_key("episode", "energy:bitfusion")
        'episode.energy_bitfusion'
    """
    return re.sub(r"[^\w.\- ]", "_", f"{step}.{name}")


def text_of(value: object) -> str:
    """Return a parameter's text; truth as ``true`` and ``false``, as MLflow's users filter it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
