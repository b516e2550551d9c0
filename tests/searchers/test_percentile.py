import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.searchers import Percentile, build
from bitfront.searchers.percentile import assign
from bitfront.searchers.testing import SearcherConformance, TinyNetwork, model_problem
from bitfront.spaces import EvaluationError, InfeasibleError, SpaceError, StudyError

FINE = (2, 3, 4, 5, 6, 7, 8)


class TestPercentile(SearcherConformance):
    make = Percentile


class TestPercentileWithSettings(SearcherConformance):
    @staticmethod
    def make():
        return Percentile(triples=((4, 6, 8), (2, 4, 6)), percentiles=((10, 90),), probe_bits=3)


def counts(bits):
    return [int((bits == width).sum()) for width in (4, 6, 8)]


# One assignment


@pytest.mark.parametrize(
    ("layers", "published"), [(21, [6, 9, 6]), (50, [13, 24, 13])], ids=["ResNet-18", "DeiT-Tiny"]
)
def test_table_3_of_the_publication(layers, published):
    sensitivity = np.random.default_rng(layers).permutation(np.geomspace(0.01, 100, layers))
    assert counts(assign(sensitivity, (4, 6, 8), (25, 75))) == published


def test_boundaries_by_hand():
    # Five layers: P25 and P75 fall on the second and the fourth.
    sensitivity = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert assign(sensitivity, (2, 4, 8), (25, 75)).tolist() == [2, 2, 4, 8, 8]
    # P10 = 1.4 and P90 = 4.6 fall between layers.
    assert assign(sensitivity, (2, 4, 8), (10, 90)).tolist() == [2, 4, 4, 4, 8]
    assert assign(sensitivity, (2, 4, 8), (0, 100)).tolist() == [2, 4, 4, 4, 8]


def test_equally_sensitive_layers_all_get_the_high_width():
    assert assign(np.ones(7), (4, 6, 8), (25, 75)).tolist() == [8] * 7


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=40).map(np.array),
    st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted).map(tuple),
)
def test_a_more_sensitive_layer_never_gets_fewer_bits(sensitivity, percentiles):
    bits = assign(sensitivity, (4, 6, 8), percentiles)
    assert set(bits.tolist()) <= {4, 6, 8}
    assert (np.diff(bits[np.argsort(sensitivity)]) >= 0).all()


# The sweep


def test_the_published_assignment_is_measured_first():
    problem = model_problem(widths=FINE, evaluations=1)
    Percentile().run(problem)
    sensitivity = probe(4)
    bits = assign(sensitivity, (4, 6, 8), (25, 75)).tolist()
    (first,) = problem.history
    assert first.allocation.weights == (8, *bits[1:-1], 8)
    assert first.allocation.activations == (8, *bits[1:-1], 8)


def probe(bits):
    from bitfront.models.sensitivity import layer_output_l2

    network = TinyNetwork()
    return layer_output_l2(network.quantized_model(), network.calibration(), bits)


def test_the_sensitivity_is_that_of_the_probe_width():
    problem = model_problem(widths=FINE, evaluations=1)
    Percentile(probe_bits=2).run(problem)
    bits = assign(probe(2), (4, 6, 8), (25, 75)).tolist()
    assert problem.history[0].allocation.weights[1:-1] == tuple(bits[1:-1])


def test_without_pins_the_first_and_the_last_layer_follow_their_sensitivity():
    problem = model_problem(widths=FINE, evaluations=1, first_last=None)
    Percentile().run(problem)
    assert problem.history[0].allocation.weights == tuple(assign(probe(4), (4, 6, 8), (25, 75)))


def test_a_small_budget_spans_the_energies_of_the_whole_sweep():
    whole, few = (model_problem(widths=FINE, evaluations=n) for n in (500, 4))
    for problem in (whole, few):
        Percentile().run(problem)
    energies = [[m.energy_vs_w8a8 for m in problem.history] for problem in (whole, few)]
    assert (min(energies[1]), max(energies[1])) == (min(energies[0]), max(energies[0]))
    assert whole.history[:4] == few.history


def test_nothing_is_measured_twice():
    problem = model_problem(widths=FINE, evaluations=500)
    Percentile().run(problem)
    asked = [m.allocation for m in problem.history]
    assert 10 < len(asked) == len(set(asked)) < 500


def test_what_is_beyond_the_limits_is_not_measured():
    problem = model_problem(widths=FINE, evaluations=500, limits={"energy": 0.8})
    Percentile().run(problem)
    assert problem.history
    assert all(m.energy_vs_w8a8 <= 0.8 for m in problem.history)


def test_no_assignment_within_the_limits_says_what_the_cheapest_costs():
    free = model_problem(widths=FINE)
    limit = free.price(free.space.uniform(3), "size")
    problem = model_problem(widths=FINE, limits={"size": limit})
    with pytest.raises(InfeasibleError, match=r"cheapest has size .* \(limit "):
        Percentile(triples=((6, 7, 8),)).run(problem)


def test_a_width_an_operand_lacks_becomes_the_next_larger():
    problem = model_problem(weights=(4, 6, 8), activations=(8,), evaluations=1)
    Percentile().run(problem)
    assert set(problem.history[0].allocation.activations) == {8}
    assert problem.history[0].allocation.weights[1:-1] == tuple(
        assign(probe(4), (4, 6, 8), (25, 75))[1:-1]
    )


@pytest.mark.parametrize("widths", [(8,), (4, 8), (2, 4, 8), (2, 3, 4)])
def test_spaces_without_the_published_widths_are_searched(widths):
    problem = model_problem(widths=widths, evaluations=100)
    Percentile().run(problem)
    assert problem.front()


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"triples": [[8, 6, 4]]}, r"\(low, middle, high\) bits, got \[8, 6, 4\]"),
        ({"triples": []}, "at least one triple"),
        ({"triples": [[4, 8]]}, r"'triples' must be "),
        ({"percentiles": [[75, 25]]}, r"lower <= upper <= 100, got \[75.0, 25.0\]"),
        ({"percentiles": [[25, 101]]}, "lower <= upper <= 100"),
        ({"percentiles": []}, "at least one pair"),
        ({"probe_bits": 9}, "probe_bits must be one of 2, 3, .*, 16, got 9"),
        ({"probe_bits": 32}, "got 32"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        build("percentile", settings)


def test_a_triple_the_space_lacks_is_refused_before_the_network_is_built():
    problem = model_problem(widths=(2, 4, 8))
    with pytest.raises(SpaceError, match="triples asks for 6 bits, and the space offers 2, 4, 8"):
        Percentile(triples=((4, 6, 8),)).run(problem)
    assert not problem.history


def test_a_sensitivity_that_is_not_finite_names_the_layer(monkeypatch):
    problem = model_problem()
    layers = [layer.name for layer in problem.space.layers]
    broken = np.array([1.0, np.nan, 2.0, np.inf])
    monkeypatch.setattr("bitfront.models.sensitivity.layer_output_l2", lambda *a, **k: broken)
    with pytest.raises(EvaluationError, match=f"layer '{layers[1]}' is not finite at 4 bits"):
        Percentile().run(problem)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    Percentile().run(model_problem())
    assert torch.equal(torch.get_rng_state(), state)
