"""What strategies that train get from a problem, and the suite that they pass like all others."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from bitfront.models.trained import TrainedNetwork
from bitfront.searchers import BudgetSpent
from bitfront.searchers.synthetic import TinyNetwork, tabular_problem
from bitfront.searchers.testing import KeptCheckpoint, SearcherConformance, model_problem
from bitfront.spaces import SpaceError, StudyError
from tests.searchers.trainers import Stepping, trained_network


class TestStepping(SearcherConformance):
    @staticmethod
    def make():
        return Stepping(epochs=20)


def network_at(problem, bits):
    model = problem.float_model()
    return trained_network(model, problem.space.layers, problem.space.uniform(bits))


def test_a_trained_network_is_charged_and_measured_with_its_digest():
    problem = model_problem(evaluations=2)
    networks = [network_at(problem, bits) for bits in (4, 8)]
    measured = [problem.evaluate_trained(networks[0], fidelity=0.5)]
    assert problem.remaining == 1
    measured.append(problem.evaluate_trained(networks[1]))
    assert problem.history == measured
    assert [m.network for m in measured] == [n.digest for n in networks]
    assert [m.allocation for m in measured] == [n.allocation for n in networks]
    assert [m.fidelity for m in measured] == [0.5, 1.0]
    with pytest.raises(BudgetSpent, match="all 2 evaluations are used"):
        problem.evaluate_trained(networks[0])
    assert len(problem.history) == 2
    assert problem.front() == [measured[1]]


def test_a_network_outside_the_space_is_refused_and_not_charged():
    problem = model_problem(widths=(4, 8))
    network = replace(
        network_at(problem, 4), allocation=problem.space.uniform(4).replace("2", weight=6)
    )
    with pytest.raises(SpaceError, match="may be 4, 8 bits, got 6"):
        problem.evaluate_trained(network)
    with pytest.raises(SpaceError, match="fidelity"):
        problem.evaluate_trained(network_at(problem, 4), fidelity=0.0)
    assert problem.history == []


def test_on_resuming_networks_are_asked_for_by_their_digests():
    asked = []

    def noting(evaluator):
        def evaluate(allocations, *, fidelity=1.0, networks=None):
            asked.append(networks)
            return evaluator(allocations, fidelity=fidelity, networks=networks)

        return evaluate

    kept = KeptCheckpoint()
    problem = model_problem(checkpoints=kept)
    problem.evaluate([problem.space.uniform(8)])
    networks = [network_at(problem, bits) for bits in (8, 4)]
    for network in networks:
        problem.evaluate_trained(network)
    problem.evaluate([problem.space.uniform(6)] * 2)
    problem.save({})
    again = model_problem(checkpoints=kept, wrap=noting)
    again.resume()
    assert again.history == problem.history
    assert asked == [None, tuple(n.digest for n in networks), None]


def test_an_evaluator_that_knows_no_networks_serves_strategies_that_do_not_train():
    problem = tabular_problem(
        wrap=lambda evaluator: lambda allocations, fidelity: evaluator(allocations)
    )
    assert problem.evaluate([problem.space.uniform(8)])


def test_what_is_finished_is_not_searched_again():
    kept = KeptCheckpoint()
    whole = model_problem(checkpoints=kept)
    Stepping().run(whole)
    assert whole.finished
    again = model_problem(checkpoints=kept)

    class Done(Stepping):
        def search(self, problem):
            raise AssertionError("it was finished")

    Done().run(again)
    assert again.finished
    assert again.history == whole.history
    assert again.trace == whole.trace
    assert (again.images_forward, again.images_backward) == (96, 96)


def test_one_that_does_not_train_is_searched_again():
    @dataclass
    class Asking(Stepping):
        trains = False

    kept = KeptCheckpoint()
    problem = model_problem(checkpoints=kept)
    Asking().run(problem)
    assert not problem.finished


def test_one_that_trains_needs_a_network():
    with pytest.raises(StudyError, match="Stepping trains the network, and this problem carries"):
        Stepping().run(tabular_problem())
    for ask in (lambda p: p.float_model(), lambda p: p.training()):
        with pytest.raises(StudyError, match="carries no network"):
            ask(tabular_problem())


def test_the_tiny_network_has_images_to_train_on_and_weights_of_its_own():
    network = TinyNetwork()
    images = network.training()
    assert (len(images), images.shape) == (64, (1, 8, 8))
    assert sorted(set(images.labels.tolist())) == list(range(10))
    assert TinyNetwork().training().digest == images.digest
    first = network.float_model()
    with torch.no_grad():
        first[0].weight.zero_()
    assert network.float_model(initial=True)[0].weight.abs().sum() > 0


def test_what_was_trained_survives_as_bytes():
    problem = model_problem()
    network = network_at(problem, 4)
    again = TrainedNetwork.from_bytes(network.to_bytes())
    assert again.digest == network.digest
    assert again.allocation == network.allocation
    assert all(np.array_equal(again.arrays[name], a) for name, a in network.arrays.items())
