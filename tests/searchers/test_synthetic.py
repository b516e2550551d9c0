import numpy as np
import pytest
import torch

from bitfront.searchers import Budget, Problem
from bitfront.searchers.synthetic import (
    AdditiveLandscape,
    TinyNetwork,
    model_problem,
    synthetic_layers,
    tabular_problem,
    true_front,
)
from bitfront.spaces import BitSpace, as_costs, dominates


def test_accuracy_by_hand():
    problem = tabular_problem()
    landscape = AdditiveLandscape(problem.energy)
    landscape.sensitivity = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0]])
    allocation = problem.space.uniform(2)  # first and last layer at 8
    assert landscape.accuracy(allocation) == pytest.approx(0.95 - 4.0**-8 - 2 / 16 - 4 * 4.0**-8)


def test_channels_count_by_their_mean():
    problem = tabular_problem(granularity="channel")
    landscape = AdditiveLandscape(problem.energy)
    landscape.sensitivity = np.array([[0.0, 1.0, 0.0, 0.0], [0.0] * 4])
    allocation = problem.space.uniform(8).replace("conv1", weight=[2, 2, 2, 4])
    assert landscape.accuracy(allocation) == pytest.approx(0.95 - (3 / 16 + 1 / 256) / 4)


def test_accuracy_has_a_floor_and_grows_with_bits():
    problem = tabular_problem(evaluations=256)
    landscape = AdditiveLandscape(problem.energy)
    by_bits = [landscape.accuracy(problem.space.uniform(bits)) for bits in (2, 4, 6, 8)]
    assert by_bits == sorted(by_bits)
    landscape.sensitivity[:] = 1e6
    assert landscape.accuracy(problem.space.uniform(2)) == 0.1


def test_the_default_space_has_256_members():
    assert tabular_problem().space.size == 256


def test_no_member_of_the_space_dominates_the_true_front():
    problem = tabular_problem()
    front = as_costs(true_front(problem))
    everything = as_costs(AdditiveLandscape(problem.energy)(list(problem.space.enumerate())))
    assert len(front) > 3
    assert not any(dominates(point, best) for point in everything for best in front)


def test_exhaustive_questions_find_the_true_front():
    problem = tabular_problem(evaluations=256)
    problem.evaluate(list(problem.space.enumerate()))
    assert problem.front() == true_front(problem)


def test_layers_are_consistent():
    for layer in synthetic_layers(5):
        assert layer.macs == layer.weight_count * layer.positions
        assert layer.output_count == layer.out_channels * layer.positions


def test_the_tiny_network_is_the_same_every_time():
    first, second = TinyNetwork(), TinyNetwork()
    (images, labels), (others, _) = first.calibration()[0], second.calibration()[0]
    assert torch.equal(images, others)
    assert labels.shape == (16,)
    assert torch.equal(first.quantized_model()(images), second.quantized_model()(images))


def test_a_fresh_model_is_not_shared():
    network = TinyNetwork()
    assert network.quantized_model() is not network.quantized_model()


def test_a_model_problem_carries_the_network_of_its_layers():
    problem = model_problem()
    model = problem.quantized_model()
    model.set_allocation(problem.space.uniform(2))
    (images, _), *_ = problem.calibration()
    quantized = model(images)
    model.set_allocation(None)
    assert not torch.equal(quantized, model(images))


def test_problems_can_be_made_of_other_spaces():
    base = tabular_problem()
    space = BitSpace.build(base.space.layers, first_last=None)
    problem = Problem(space, base.energy, AdditiveLandscape(base.energy), Budget(1))
    assert problem.evaluate([space.uniform(2)])[0].mean_weight_bits == 2
