import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models.dynamic.container import Container
from bitfront.models.dynamic.layout import Layout
from bitfront.models.dynamic.quantize import gated_quantize, select
from bitfront.models.quantizers import fake_quantize
from bitfront.spaces import ModelError

ENDS = {2: (-1.0, 3.0), 4: (-1.0, 3.0), 8: (-1.0, 3.0)}


def container(*widths):
    return Container.of(ENDS, widths, "affine")


def gates_for(places, widths):
    places = torch.as_tensor(places)
    gates = (places.unsqueeze(-1) > torch.arange(widths - 1)).float()
    return gates.requires_grad_()


def test_a_container_holds_the_grids_of_all_its_widths():
    found = container(2, 4, 8)
    # 2 bits: steps of 4/3, zero is code 1 of 0 to 3; finer grids begin at the same lowest point
    assert found.unit == pytest.approx(4 / 3 / 64) and found.zero_point == 64
    assert found.grids.zero_point.tolist() == [1, 4, 64]
    assert found.grids.highest.tolist() == [3, 15, 255]
    codes = found.whole(torch.tensor([-9.0, -1.0, 0.0, 3.0, 9.0]))
    assert codes.tolist() == [-64, -48, 0, 144, 191]
    index = torch.tensor([[0], [2]])
    assert found.chosen(index).scale.flatten().tolist() == [found.unit * 64, found.unit]
    assert found.grid(1).scale == found.unit * 16 and found.grid(1).zero_point == 4


@pytest.mark.parametrize("widths", [(), (4, 4), (8, 4), (1, 8), (4, 16)])
def test_widths_that_no_gate_can_have_are_refused(widths):
    with pytest.raises(ModelError, match=r"a gate (needs|chooses from) widths"):
        container(*widths)


@given(st.integers(0, 2**20), st.sampled_from([(4, 8), (2, 4, 8), (4,)]))
def test_every_channel_is_on_the_grid_that_was_chosen_for_it(seed, widths):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, 4, 4, generator=draw) * 2
    places = torch.randint(len(widths), (3, 5), generator=draw)
    grids, gates = container(*widths), gates_for(places, len(widths))
    found = gated_quantize(x, grids, gates, Layout(-3, 5))
    points = [fake_quantize(x, grids.grid(place)) for place in range(len(widths))]
    for n in range(3):
        for c in range(5):
            assert torch.equal(found[n, c], points[places[n, c]][n, c])
    assert torch.equal(select(points, gates, Layout(-3, 5)), found)


def test_gradients_by_hand():
    grids, layout = container(4, 8), Layout(-1, 2)
    x = torch.tensor([[[0.1, 2.9], [0.3, 9.0]]], requires_grad=True)
    gates = gates_for([[0, 1]], 2)
    g = torch.tensor([[[1.0, 2.0], [-3.0, 5.0]]])
    (gated_quantize(x, grids, gates, layout) * g).sum().backward()
    # the second value of the second channel is clipped, at 8 bits, which that channel has
    assert x.grad.tolist() == [[[1.0, 2.0], [-3.0, 0.0]]]
    narrow, wide = (fake_quantize(x.detach(), grids.grid(place)) for place in (0, 1))
    gained = ((wide - narrow) * g)[0]
    assert torch.allclose(gates.grad, (gained[0] + gained[1]).view(1, 2, 1))
    assert gates.grad.abs().min() > 0


def test_a_value_that_only_the_narrow_grid_clips_has_a_gradient_when_it_is_wide():
    # of 2 bits the highest point is 2 2/3; of 8 bits 3.98: 3.5 is more than half a step beyond
    grids, layout = container(2, 8), Layout(-1, 1)
    for place, passed in ((0, 0.0), (1, 1.0)):
        x = torch.tensor([[3.5]], requires_grad=True)
        gated_quantize(x, grids, gates_for([[place]], 2), layout).sum().backward()
        assert x.grad.item() == passed


def test_gates_of_groups_feel_all_their_values():
    grids, layout = container(2, 4, 8), Layout(-1, 2, 3)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    gates = gates_for([[0, 2], [1, 1]], 3)
    g = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    (gated_quantize(x, grids, gates, layout) * g).sum().backward()
    points = [fake_quantize(x, grids.grid(place)) for place in range(3)]
    for k in range(2):
        gained = ((points[k + 1] - points[k]) * g).view(2, 5, 2, 3).sum((1, 3))
        assert torch.allclose(gates.grad[..., k], gained, atol=1e-6)


def test_selecting_passes_gradients_to_what_was_selected():
    layout, gates = Layout(-1, 2), gates_for([[0, 1]], 2)
    points = [torch.tensor([[1.0, 2.0]], requires_grad=True) for _ in range(2)]
    select(points, gates, layout).mul(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert [p.grad.tolist() for p in points] == [[[3.0, 0.0]], [[0.0, 4.0]]]
    assert gates.grad.flatten().tolist() == [0.0, 0.0]  # both would give the same


def test_without_gradients_nothing_is_kept():
    x = torch.randn(2, 3)
    out = gated_quantize(x, container(4, 8), gates_for([[0, 1, 0]] * 2, 2).detach(), Layout(-1, 3))
    assert not out.requires_grad
