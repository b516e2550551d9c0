import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.dynamic.container import Container
from bitfront.models.dynamic.gates import ForcedGate, SelectorGate, TrainableGate
from bitfront.models.dynamic.layout import Layout
from bitfront.models.dynamic.quantize import gated_quantize
from bitfront.models.dynamic.selectors import Selectors
from bitfront.models.quantizers import fake_quantize
from bitfront.spaces import ModelError

ENDS = {2: (-2.0, 3.0), 4: (-2.0, 3.0), 8: (-2.0, 3.0)}
LAYOUT = Layout(-3, 6)


def container(*widths, scheme="affine"):
    return Container.of(ENDS, widths, scheme)


def images(n=7, seed=0):
    """Of six channels, unlike each other and from input to input."""
    draw = torch.Generator().manual_seed(seed)
    strength = torch.rand(n, 6, 1, 1, generator=draw) * 2
    return torch.randn(n, 6, 8, 8, generator=draw) * strength


def selectors(widths=3, seed=0, **options):
    """Of random weights, whose thresholds lie within the scores of `images`."""
    made = Selectors(6, widths, generator=torch.Generator().manual_seed(seed), **options)
    gate = TrainableGate((2, 4, 8)[:widths], LAYOUT, 16, made)
    statistics = gate.statistics(images(64, 9), container(*gate.widths))
    made.standardize(statistics)
    with torch.no_grad():
        made.score_bias.sub_(made(statistics).quantile(0.4))
        made.gaps.fill_(-0.5)
    return made


def selector_gate(per="sample", **options):
    return SelectorGate((2, 4, 8), LAYOUT, 16, selectors(**options).deployed(), per)


@given(st.permutations(range(7)), st.sampled_from(["affine", "symmetric"]), st.booleans())
def test_an_input_gets_the_same_widths_in_any_batch_and_memory_format(order, scheme, shared):
    gate, grids, x = selector_gate(shared=shared), container(2, 4, 8, scheme=scheme), images()
    whole = gate.choose(x, grids)
    assert gate.last.dtype == torch.uint8 and torch.equal(gate.last.long(), whole)
    assert len(whole.unique()) == 3
    assert torch.equal(gate.choose(x[list(order)], grids), whole[list(order)])
    assert torch.equal(torch.cat([gate.choose(one[None], grids) for one in x]), whole)
    other = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(gate.choose(other, grids), whole)
    assert torch.equal(gate.quantized(other, grids), gate.quantized(x, grids))


def test_a_whole_batch_gets_the_same_widths_if_that_is_wanted():
    gate, grids, x = selector_gate("batch"), container(2, 4, 8), images()
    chosen = gate.choose(x, grids)
    assert chosen.shape == (7, 6) and (chosen == chosen[:1]).all()
    statistics = gate.statistics(x, grids)
    assert statistics.shape == (1, 6, 4)
    alone = torch.cat([selector_gate().statistics(one[None], grids) for one in x])
    assert torch.equal(statistics[0, :, 2], alone[..., 2].amax(0))
    assert torch.allclose(statistics[0, :, 0], alone[..., 0].mean(0), atol=1e-4)


def test_only_so_many_values_are_looked_at():
    gate, grids, x = selector_gate(), container(2, 4, 8), images()
    changed = x.clone()
    changed[:, :, ::2] = 100.0  # the grid of 16 begins at row 0 with stride 2
    assert not torch.equal(gate.statistics(changed, grids), gate.statistics(x, grids))
    changed = x.clone()
    changed[:, :, 1::2] = 100.0
    assert torch.equal(gate.statistics(changed, grids), gate.statistics(x, grids))


def test_forced_choices():
    grids, x = container(4, 8), images(4)
    one = ForcedGate((4, 8), LAYOUT, 1)
    assert (one.choose(x, grids) == 1).all()
    by_channel = ForcedGate((4, 8), LAYOUT, [0, 1, 0, 1, 1, 0])
    assert by_channel.choose(x, grids).tolist() == [[0, 1, 0, 1, 1, 0]] * 4
    rows = torch.randint(2, (7, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    gate = ForcedGate((4, 8), LAYOUT, rows)
    for _ in range(2):
        found = [gate.choose(images(n), grids) for n in (4, 2, 1)]
        assert torch.equal(torch.cat(found), rows.long())
        gate.rewind()
    gate.choose(x, grids)
    with pytest.raises(ModelError, match="choices are left for 3 inputs, and a batch has 4"):
        gate.choose(x, grids)


def test_values_are_on_the_grids_of_their_channels():
    grids, x = container(4, 8), images(3)
    gate = ForcedGate((4, 8), LAYOUT, [0, 1, 0, 1, 1, 0])
    found = gate.quantized(x, grids)
    for channel, place in enumerate([0, 1, 0, 1, 1, 0]):
        assert torch.equal(found[:, channel], fake_quantize(x, grids.grid(place))[:, channel])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: ForcedGate((4, 8), LAYOUT, 2), "places among the 2 widths"),
        (lambda: ForcedGate((4, 8), LAYOUT, -1), "places among the 2 widths"),
        (lambda: ForcedGate((4, 8), LAYOUT, torch.tensor(0.5)), "places among the 2 widths"),
        (lambda: ForcedGate((4, 8), LAYOUT, [0, 1]), "6 decisions was told choices of shape"),
        (lambda: ForcedGate((8, 4), LAYOUT, 0), "widths that rise"),
        (lambda: ForcedGate((4, 16), LAYOUT, 0), "widths of 2 to 8 bits"),
        (lambda: SelectorGate((4, 8), LAYOUT, 16, selectors().deployed()), "6 among 3"),
        (lambda: TrainableGate((4, 8), Layout(-1, 5), 16, selectors()), "5 decisions among 2"),
        (lambda: selector_gate("channel"), "per 'sample' or per 'batch', got 'channel'"),
        (lambda: TrainableGate((2, 4, 8), LAYOUT, 0, selectors()), "1 value at least, got 0"),
    ],
)
def test_gates_that_cannot_be(made, said):
    with pytest.raises(ModelError, match=said):
        made()


def test_a_trainable_gate_computes_what_its_choices_say_and_has_gradients():
    made, grids = selectors(), container(2, 4, 8)
    gate, x = TrainableGate((2, 4, 8), LAYOUT, 16, made), images().requires_grad_()
    out = gate.quantized(x, grids)
    assert torch.equal(gate.last.long(), made.choose(gate.statistics(x, grids)))
    with torch.no_grad():
        assert torch.equal(gate.quantized(x, grids), out)
    forced = ForcedGate((2, 4, 8), LAYOUT, gate.last)
    assert torch.equal(forced.quantized(x, grids), out)
    (out - x.detach()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.parameters())
    # values on the grid of their choice that are not clipped pass all of the gradient
    kept = fake_quantize(x, grids.chosen(LAYOUT.spread(gate.last.long(), 4)))
    (expected,) = torch.autograd.grad((kept - x.detach()).square().sum(), x)
    assert torch.equal(x.grad, expected)


def test_more_bits_are_pulled_to_where_the_error_falls_most():
    made, grids, x = selectors(2), container(2, 4), images()
    gate = TrainableGate((2, 4), LAYOUT, 16, made)
    scores = made(gate.statistics(x, grids)).detach().requires_grad_()
    out = gated_quantize(x, grids, made.gates(scores), LAYOUT)
    (out - x).square().sum().backward()
    # d/d gate of |q - x|^2 = 2 (q - x) (x_4 - x_2), which for narrow channels is about -2 |q - x|^2
    narrow = gate.choose(x, grids) == 0
    assert (scores.grad[narrow] <= 0).all() and scores.grad[narrow].mean() < -10


def test_shares_are_of_all_decisions_about_an_input():
    made, grids, x = selectors(), container(2, 4, 8), images()
    gate = TrainableGate((2, 4, 8), LAYOUT, 16, made)
    gate.quantized(x, grids)
    counted = torch.stack([(gate.last == place).float().mean(1) for place in range(3)], 1)
    assert torch.allclose(gate.shares, counted)
    gate.shares[:, 2].sum().backward()
    assert made.score_bias.grad is not None and (made.score_bias.grad > 0).all()
    with torch.no_grad():
        gate.quantized(x, grids)
    assert not gate.shares.requires_grad


def test_a_frozen_gate_has_no_gradients():
    made = selectors().requires_grad_(False)
    gate = TrainableGate((2, 4, 8), LAYOUT, 16, made)
    assert not gate.is_recorded
    assert not gate.quantized(images(), container(2, 4, 8)).requires_grad
    x = images().requires_grad_()
    assert gate.quantized(x, container(2, 4, 8)).requires_grad
