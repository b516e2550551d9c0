"""A finished study made of formulas, and a study small enough to run."""

import math
import signal
from dataclasses import replace

import numpy as np
import pytest

from bitfront.searchers.trace import Trace
from bitfront.spaces import BitAllocation, Measurement, non_dominated
from bitfront.studies.result import Point, StudyResult, TrialRecord

LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
STRATEGIES = {"percentile": 0.010, "random": -0.025, "uniform": -0.008}
SAMPLES = 360


def synthetic_measurement(bits, accuracy, split, activations=None) -> Measurement:
    """A measurement whose energy is the mean product of widths over 64."""
    activations = bits if activations is None else activations
    product = float(np.mean(np.multiply(bits, activations)))
    return Measurement(
        allocation=BitAllocation(LAYERS, list(bits), list(activations)),
        accuracy=accuracy,
        accuracy_se=math.sqrt(accuracy * (1 - accuracy) / SAMPLES),
        loss=2 * (1 - accuracy),
        energy_vs_fp32=product / 1024,
        energy_vs_w8a8=product / 64,
        energy_pj=1500 * product,
        energy_table="horowitz-45nm",
        size_bytes=int(2000 * np.mean(bits)),
        bops=int(1e6 * product),
        mean_weight_bits=float(np.mean(bits)),
        mean_activation_bits=float(np.mean(activations)),
        samples=SAMPLES,
        wall_s=0.01,
        split=split,
    )


def synthetic_points(strategy: str, gain: float, rng: np.random.Generator) -> list[Point]:
    """Ten finalists between 2 and 8 bits, the front flags still unset."""
    points = []
    for index, width in enumerate(np.linspace(2.2, 8.0, 10)):
        if strategy == "uniform":
            bits = [round(width)] * len(LAYERS)
        else:
            bits = np.clip(np.round(width + rng.normal(0, 1, len(LAYERS))), 2, 8).astype(int)
        bits = [8, *map(int, bits[1:-1]), 8]
        accuracy = float(np.clip(0.975 - 0.9 * math.exp(-0.8 * np.mean(bits)) + gain, 0.1, 0.98))
        seen, held_out = (
            synthetic_measurement(bits, float(np.clip(accuracy + rng.normal(0, 0.004), 0, 1)), s)
            for s in ("search", "test")
        )
        points.append(Point(strategy, index % 2, "30 evaluations", seen, held_out, True, False))
    return points


def flag_fronts(points: list[Point]) -> list[Point]:
    """Set the front flags as a study does."""

    def optimal(measurements) -> list[bool]:
        costs = np.array([[-m.accuracy, m.energy_vs_w8a8] for m in measurements])
        return [bool(flag) for flag in non_dominated(costs)]

    on_front = optimal([point.test for point in points])
    flagged = []
    for strategy in dict.fromkeys(point.strategy for point in points):
        rows = [i for i, point in enumerate(points) if point.strategy == strategy]
        own = optimal([points[i].search for i in rows])
        for i, on_own in zip(rows, own, strict=True):
            p = points[i]
            flagged.append(
                Point(p.strategy, p.seed, p.budget, p.search, p.test, on_own, on_front[i])
            )
    return flagged


def _synthetic_result(name: str = "synthetic", strategies=None) -> StudyResult:
    """A study of thirty finalists; another name or other labels for the same formulas."""
    rng = np.random.default_rng(0)
    labels = STRATEGIES if strategies is None else strategies
    points = [p for label, gain in labels.items() for p in synthetic_points(label, gain, rng)]
    return StudyResult(
        name=name,
        spec={"study": name, "description": "formulas", "model": {"name": "cnn5"}},
        points=tuple(flag_fronts(points)),
        trials=tuple(
            TrialRecord(label, seed, "30 evaluations", 30, 30 * SAMPLES, 1.5)
            for label in labels
            for seed in (0, 1)
        ),
        float_search=synthetic_measurement([32] * 5, 0.978, "search"),
        float_test=synthetic_measurement([32] * 5, 0.975, "test"),
        uniform_w8a8=synthetic_measurement([8] * 5, 0.972, "test"),
        workload="0" * 32,
        space_size=7**6,
        versions={"bitfront": "0.1.0"},
        notes=("formulas, not measurements",),
    )


@pytest.fixture(scope="session")
def make_synthetic_result():
    """The factory: ``make_synthetic_result(name=..., strategies={label: gain})``."""
    return _synthetic_result


@pytest.fixture(scope="session")
def synthetic_result() -> StudyResult:
    return _synthetic_result()


def _synthetic_trace(steps: int = 150, layers=LAYERS, seed: int = 0) -> Trace:
    """A search that learns: accuracy rises while noise falls; the critic starts at step 10."""
    rng = np.random.default_rng(seed)
    trace = Trace("episode", tuple(layers))
    best = 0.0
    for index in range(steps):
        progress = index / steps
        noise = rng.normal(0, 1 - 0.9 * progress, (2, len(layers)))
        weights, activations = np.clip(np.round(5 + noise), 2, 8).astype(int).tolist()
        accuracy = float(np.clip(0.9 - 0.5 * math.exp(-4 * progress) + 0.02 * noise[0, 0], 0, 1))
        best = max(best, accuracy)
        trace.add(
            BitAllocation(layers, weights, activations),
            {
                "reward": 10 * (accuracy - 0.9),
                "accuracy": accuracy,
                "critic_loss": math.exp(-progress) if index >= 10 else None,
                "best_accuracy": best,
                "energy": 0.6 - 0.01 * abs(noise[1, 0]),
            },
        )
    return trace


@pytest.fixture(scope="session")
def make_synthetic_trace():
    """The factory: ``make_synthetic_trace(steps=..., layers=..., seed=...)``."""
    return _synthetic_trace


@pytest.fixture(scope="session")
def learning_result() -> StudyResult:
    """A study of two strategies with two seeds each, of which one logged its search."""
    result = _synthetic_result("learning", {"haq": 0.01, "uniform": 0.0})
    trials = [
        replace(trial, findings={"trace": _synthetic_trace(seed=trial.seed).to_dict()})
        if trial.strategy == "haq"
        else trial
        for trial in result.trials
    ]
    return replace(result, points=result.points[:2], trials=tuple(trials))


TINY_STUDY = """\
study: tiny
model: {name: cnn5, train: {epochs: 1, threads: 1}}
data: {name: digits, calibration_images: 32, search_images: 40, test_images: 50}
strategies: [{name: uniform, widths: [8, 4]}, {name: random}]
budgets: {evaluations: 3}
seeds: [0, 1]
execution: {workers: 0, batch_size: 32}
"""


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory):
    """A folder that keeps trained weights for all tests of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_study(tmp_path, monkeypatch, model_cache):
    """Return a factory of specs: ``tiny_study({("seeds",): [0]})``; runs in an empty folder."""
    from bitfront.studies.spec import StudySpec

    monkeypatch.setenv("BITFRONT_CACHE", str(model_cache))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_STUDY)

    def load(overrides=None):
        return StudySpec.load(path, overrides)

    return load


@pytest.fixture(scope="session")
def tiny_workload():
    """An untrained cnn5 on a few digits."""
    from bitfront.energy import EnergyModel, load_table
    from bitfront.models.config import DataConfig, QuantizerConfig
    from bitfront.models.data import load_data
    from bitfront.models.profile import profile
    from bitfront.studies.workload import Architecture, Workload

    sizes = {"calibration_images": 32, "search_images": 40, "test_images": 50}
    splits = load_data(DataConfig(**sizes))
    architecture = Architecture("cnn5", splits.classes, splits.input_shape, {}, 0)
    model = architecture.build()
    energy = EnergyModel(load_table("horowitz-45nm"), profile(model, splits.input_shape))
    return Workload.of(
        model, architecture, splits, energy, quantizer=QuantizerConfig(), batch_size=32
    )


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive():
    """Let SIGINT interrupt: a shell has what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
