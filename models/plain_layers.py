"""Layers whose computation is known: one convolution or one linear map of their own weights.

Other subclasses of torch's layers may do anything in their ``forward``.
"""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

PlainKind = Literal["conv", "same conv", "linear"]

_TIMM_KINDS: dict[tuple[str, str], PlainKind] = {
    ("timm.layers.conv2d_same", "Conv2dSame"): "same conv",
    ("timm.layers.linear", "Linear"): "linear",
}


def plain_kind(module: nn.Module) -> PlainKind | None:
    """Return what a layer computes; None if that is its own affair.

    A ``same conv`` is timm's ``Conv2dSame``: it pads so that its output has the size of its input
    divided by the stride, with the odd pixel at the end, as TensorFlow does.
    """
    kind: type[Any] = type(module)
    if kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward:
        return "conv"
    if kind.forward is nn.Linear.forward:
        return "linear"
    # By name, so that a network without timm never imports it.
    return _TIMM_KINDS.get((kind.__module__, kind.__name__))


def plain_product(x: Tensor, weight: Tensor, bias: Tensor | None, module: nn.Module) -> Tensor:
    """Return what a plain layer computes with another weight and bias.

    Args:
        x: Its input.
        weight: In the shape of its weight.
        bias: By output channel, or None.
        module: The layer.
    """
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    assert isinstance(module, nn.Conv2d)
    if plain_kind(module) == "same conv":
        padded = pad_same(x, module)
        return F.conv2d(padded, weight, bias, module.stride, 0, module.dilation, module.groups)
    out: Tensor = module._conv_forward(x, weight, bias)
    return out


def pad_same(x: Tensor, module: nn.Conv2d, value: float = 0) -> Tensor:
    """Return the padded input of a ``same conv``.

    Args:
        x: ``images x channels x height x width``.
        module: The layer.
        value: What stands for zero.
    """
    pads: list[int] = []
    for axis in (1, 0):
        size, stride = x.shape[2 + axis], module.stride[axis]
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x
