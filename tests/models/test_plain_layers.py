import pytest
import torch
from torch import nn

from bitfront.models.plain_layers import pad_same, plain_kind, plain_product
from bitfront.models.torchvision_ops import declare_missing_operators

declare_missing_operators()  # timm imports torchvision
from timm.layers import Conv2dSame, StdConv2d  # noqa: E402
from timm.layers.linear import Linear  # noqa: E402


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, *args):
        return super()._conv_forward(*args) * 2


class Renamed(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv2d(4, 4, 3), "conv"),
        (Renamed(4, 4, 3), "conv"),
        (nn.Linear(4, 4), "linear"),
        (Linear(4, 4), "linear"),
        (Conv2dSame(4, 4, 3), "same conv"),
        (OwnForward(4, 4), None),
        (OwnConvolution(4, 4, 3), None),
        (StdConv2d(4, 4, 3), None),
        (nn.ReLU(), None),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_kinds(module, kind):
    assert plain_kind(module) == kind


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2),
        Conv2dSame(4, 6, 3, stride=2),
        Conv2dSame(4, 6, 2),
        Conv2dSame(4, 6, (5, 3), stride=(3, 2), dilation=(1, 2)),
        Conv2dSame(4, 4, 5, stride=2, groups=4, bias=False),
        Conv2dSame(4, 6, 1, stride=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(12, 12), (7, 10), (5, 5)], ids=str)
def test_products_are_those_of_the_layer(module, size):
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = plain_product(x, module.weight, module.bias, module)
        torch.testing.assert_close(found, module(x))


def test_linear_products_are_those_of_the_layer():
    module, x = Linear(5, 3), torch.ones(2, 7, 5)
    assert torch.equal(plain_product(x, module.weight, module.bias, module), module(x))


def test_padding_takes_what_stands_for_zero_and_keeps_type_and_memory_format():
    x = torch.full((1, 2, 4, 4), 9, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    padded = pad_same(x, Conv2dSame(2, 2, 3, stride=2), value=7)
    assert padded.shape == (1, 2, 5, 5) and padded.dtype == torch.uint8
    assert (padded[..., -1] == 7).all() and (padded[:, :, -1] == 7).all()
    assert (padded[..., :4, :4] == 9).all()
    assert padded.is_contiguous(memory_format=torch.channels_last)
    assert pad_same(x, Conv2dSame(2, 2, 1)) is x
