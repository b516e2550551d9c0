import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bitfront.models.dynamic.integer_selector import LARGEST_BIAS
from bitfront.models.dynamic.selectors import Selectors
from bitfront.spaces import ModelError


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def random_statistics(n, channels, seed=0):
    """Like those of codes: means around 40, spreads around 20, magnitudes, up to 3 bits."""
    found = torch.rand(n, channels, 4, generator=draw(seed))
    return found * torch.tensor([80.0, 40.0, 255.0, 3.0])


def selectors(channels=6, choices=3, seed=0, **options):
    made = Selectors(channels, choices, generator=draw(seed), **options)
    made.standardize(random_statistics(50, channels, seed + 1))
    with torch.no_grad():
        made.score_bias.copy_(torch.randn(channels, generator=draw(seed + 2)) * 0.5)
    return made


@given(st.booleans(), st.booleans(), st.integers(1, 9), st.integers(4, 16), st.integers(0, 2**20))
def test_whole_numbers_choose_as_trained_ones_do(shared, by_channel, channels, hidden, seed):
    # Features are whole thirty-seconds of a standard deviation and weights have 8 bits, so that a
    # score is off by about a hundredth of its spread: few lie as near to a threshold.
    made = Selectors(channels, 3, hidden, shared=shared, generator=draw(seed))
    inputs = random_statistics(400, channels, seed)
    made.standardize(inputs, by_channel=by_channel)
    with torch.no_grad():  # choices of all kinds: thresholds lie within the scores
        scores = made(inputs)
        assume(len(scores.unique()) > 0.95 * scores.numel())  # not all units are off
        low, high = scores.quantile(0.4), scores.quantile(0.8)
        made.score_bias.sub_(low)
        made.gaps.fill_(float((high - low).expm1().log()))
    deployed = made.deployed()
    agreed = (deployed.choose(inputs) == made.choose(inputs)).float().mean()
    assert agreed > 0.95
    step = torch.from_numpy(deployed.arrays()["score_step"])
    error = (deployed.scores(inputs) * step - made(inputs)).detach().abs().max()
    assert error <= 0.25 * scores.std()


def test_scores_computed_by_hand():
    made = Selectors(2, 3, 1, generator=draw())
    with torch.no_grad():
        made.hidden_weight.copy_(torch.tensor([[[1.0, 0.0, 0.0, -2.0]]]))
        made.hidden_bias.fill_(0.5)
        made.score_weight.fill_(2.0)
        made.score_bias.copy_(torch.tensor([0.0, -4.0]))
    made.centre, made.spread = torch.tensor([[10.0, 0, 0, 1]]), torch.tensor([[5.0, 1, 1, 1]])
    # standardized: 1 and -1 -> 1 + 2 + 0.5 = 3.5 -> 7 and 3
    found = made(torch.tensor([[[15.0, 9, 9, 0], [15.0, 9, 9, 0]]]))
    assert found.tolist() == [[7.0, 3.0]]
    # far outside, features end at 4 standard deviations
    assert made(torch.tensor([[[1e9, 0, 0, 1]] * 2]))[0, 0] == 2 * (127 / 32 + 0.5)
    assert made.thresholds.tolist() == pytest.approx([0.0, 0.6931472])  # softplus(0)


def test_all_that_is_deployed_is_whole_and_small():
    for shared in (True, False):
        arrays = selectors(channels=5, hidden=4, shared=shared).arrays()
        many = 1 if shared else 5
        assert {name: a.shape for name, a in arrays.items()} == {
            "feature_scale": (1, 4),
            "feature_shift": (1, 4),
            "hidden_weight": (many, 4, 4),
            "hidden_bias": (many, 4),
            "hidden_scale": (many, 4),
            "score_weight": (many, 4),
            "score_bias": (5,),
            "thresholds": (many, 2),
            "score_step": (many,),
            "offset": (1,),
        }
        assert arrays["hidden_weight"].dtype == "int8" and arrays["score_bias"].dtype == "int32"


def test_large_biases_stay_exact():
    made = selectors()
    with torch.no_grad():
        made.score_bias.fill_(1e6)
        made.hidden_bias.fill_(1e6)
    deployed = made.deployed()
    assert abs(int(deployed.arrays()["score_bias"].max())) <= LARGEST_BIAS
    assert (deployed.choose(random_statistics(20, 6)) == 2).all()


def test_gates_are_hard_and_each_is_open_only_if_the_one_before_is():
    made = selectors(choices=4)
    gates = made.gates(made(random_statistics(30, 6)))
    assert gates.shape == (30, 6, 3)
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert (gates.diff(dim=-1) <= 0).all()
    assert torch.equal(gates.sum(-1).long(), made.choose(random_statistics(30, 6)))


def test_gradients_of_a_gate_are_those_of_its_estimator():
    made = selectors(choices=3)
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.0, 0.5, 1.0]], requires_grad=True)
    made.gates(scores)[..., 0].sum().backward()
    assert torch.equal(scores.grad, torch.ones(1, 6))
    scores.grad = None
    made.gates(scores, "sigmoid", 0.5)[..., 0].sum().backward()
    sigmoid = torch.sigmoid(scores.detach() / 0.5)
    assert torch.allclose(scores.grad, sigmoid * (1 - sigmoid) / 0.5)
    made.gaps.grad = None
    made.gates(scores)[..., 1].sum().backward()
    assert made.gaps.grad.item() == -6 * 0.5  # six scores, and softplus has slope 1/2 at 0


def test_another_estimator_is_refused():
    with pytest.raises(ModelError, match="'identity' or 'sigmoid', got 'gumbel'"):
        selectors().gates(torch.zeros(1, 6), "gumbel")


def test_a_statistic_that_never_changes_tells_nothing():
    made = Selectors(3, 2, generator=draw())
    made.standardize(torch.full((5, 3, 4), 128.0))
    near, far = made(torch.full((1, 3, 4), 128.0)), made(torch.full((1, 3, 4), 129.0))
    assert (near - far).abs().max() < 0.1


def test_nothing_to_decide_is_refused():
    with pytest.raises(ModelError, match="needs channels, choices and hidden units"):
        Selectors(0, 2, generator=draw())
