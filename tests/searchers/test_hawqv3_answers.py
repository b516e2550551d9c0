"""The integer programs that HAWQ-V3 published, and its answers."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from bitfront.searchers.additive import AdditiveModel
from bitfront.spaces import BitAllocation, BitSpace, Layer

NAME = "hawqv3_ilp.json"
SHARED = [Path(__file__).parents[3] / "shared", Path(os.environ.get("BITFRONT_DATA", ".")).parent]
PUBLISHED = next((p for s in SHARED if (p := s / "fixtures" / NAME).exists()), None)


@pytest.fixture(scope="module")
def published():
    if PUBLISHED is None:
        pytest.skip(f"needs the published problems of HAWQ-V3: {NAME} in fixtures beside the data")
    return json.loads(PUBLISHED.read_text())


def hawqv3(network):
    """Return the model, the three costs and the published bits of one network's problems."""
    layers = [
        Layer(f"l{i}", "conv", 1, 1, 0, 1, 1, 1, 1) for i in range(len(network["parameters"]))
    ]
    space = BitSpace.build(
        layers,
        weights=[4, 8],
        activations=[8],
        first_last=None,
        ties=[[f"l{i}.weight", f"l{j}.weight"] for i, j in network["tied_layers"]],
    )

    def table(at_4, at_8):
        values = np.full((len(layers), 33, 33), np.nan)
        values[:, 4, 8], values[:, 8, 8] = at_4, at_8
        return values

    trace, parameters, macs = (
        np.array(network[name]) for name in ("Hutchinson_trace", "parameters", "bops")
    )
    changes = [network[f"delta_weights_{bits}bit_square"] for bits in (4, 8)]
    costs = {
        "modelsize": table(0.5 * parameters, parameters),
        "bops": table(macs / 64, macs / 16),
        "latency": table(network["latency_int4"], network["latency_int8"]),
    }
    return AdditiveModel(space, table(*(trace * change for change in changes))), costs


def solve_published(network, problem):
    model, costs = hawqv3(network)
    name, ratio = problem.split("_")
    low, high = (math.fsum(costs[name][:, bits, 8]) for bits in (4, 8))
    return model.solve({name: (costs[name], low + float(ratio) * (high - low))})


PROBLEMS = [
    f"{cost}_{r}" for cost in ("modelsize", "bops", "latency") for r in ("0.75", "0.5", "0.25")
]
NOT_OPTIMAL = ("resnet50", "modelsize_0.25")
REMAINING = [0.0334, 0.0745, 0.1183, 0.0800, 0.2157, 0.4604, 0.0800, 0.2027, 0.4604]


@pytest.mark.parametrize(
    ("name", "problem"),
    sorted({*itertools.product(["resnet18", "resnet50"], PROBLEMS)} - {NOT_OPTIMAL}),
)
def test_the_published_bits_of_hawqv3(published, name, problem):
    solution = solve_published(published[name], problem)
    assert solution.status == "optimal"
    assert list(solution.allocation.weights) == published[name]["published_bits"][problem]


def test_the_one_published_answer_that_is_not_optimal(published):
    name, problem = NOT_OPTIMAL
    network = published[name]
    solution = solve_published(network, problem)
    assert solution.status == "optimal"
    bits, theirs = list(solution.allocation.weights), network["published_bits"][problem]
    assert [i for i, pair in enumerate(zip(bits, theirs, strict=True)) if len({*pair}) > 1] == [39]
    assert (bits[39], theirs[39]) == (8, 4)
    names = [f"l{i}" for i in range(len(bits))]
    model, _ = hawqv3(network)
    assert model.predict(BitAllocation(names, theirs, [8] * len(names))) == pytest.approx(
        0.0831, abs=5e-5
    )
    assert solution.score == pytest.approx(0.0749, abs=5e-5)


@pytest.mark.parametrize(("problem", "remaining"), [*zip(PROBLEMS, REMAINING, strict=True)])
def test_the_remaining_objectives_of_resnet18(published, problem, remaining):
    solution = solve_published(published["resnet18"], problem)
    assert solution.score == pytest.approx(remaining, abs=5e-5)


def test_the_objectives_of_uniform_resnet18(published):
    model, _ = hawqv3(published["resnet18"])
    assert model.predict(model.space.uniform(4, 8)) == pytest.approx(1.3077, abs=5e-5)
    assert model.predict(model.space.uniform(8)) == pytest.approx(0.00426, abs=5e-6)
