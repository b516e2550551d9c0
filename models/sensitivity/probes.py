"""What is scored: one operand of one layer at one width, everything else in float."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...spaces import FLOAT_BITS
from ...spaces.scores import Choices
from ..quantized import QuantizedModel
from ..quantized_layers import QuantizedLayer, QuantizedMatMul, QuantizedWeightLayer
from ..quantizers import fake_quantize

WEIGHT, ACTIVATION = 0, 1
"""Places of the operands in scores."""

Place = tuple[int, int, int]
"""Of a score: number of the layer, operand, bits."""


@dataclass(frozen=True)
class Probe:
    """One operand of one layer at one width.

    Attributes:
        place: Where its score belongs.
        layer: The layer.
    """

    place: Place
    layer: QuantizedLayer

    @property
    def operand(self) -> int:
        """`WEIGHT` (or the right operand of a matmul) or `ACTIVATION`."""
        return self.place[1]

    @property
    def bits(self) -> int:
        """The width."""
        return self.place[2]

    def output(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return what the layer makes of float inputs with only this operand quantized."""
        if self.operand == WEIGHT:
            return self.layer.compute(inputs, self.bits, FLOAT_BITS)
        return self.layer.compute(inputs, FLOAT_BITS, self.bits)

    def quantized_activation(self, x: Tensor) -> Tensor:
        """Return the quantized operand, which has to be an activation.

        Args:
            x: It in float; the right operand of a matmul if that is what is probed.
        """
        if self.operand == ACTIVATION:
            return fake_quantize(x, self.layer.left.grid(self.bits))
        assert isinstance(self.layer, QuantizedMatMul)
        return fake_quantize(x, self.layer.right.grid(self.bits))

    def weight_change(self) -> Tensor:
        """Return ``Q(W) - W``; the operand has to be a layer's weights."""
        assert isinstance(self.layer, QuantizedWeightLayer)
        weight = self.layer.inner.get_parameter("weight").detach()
        whole = self.layer.weight_codes(self.bits)
        return whole.codes * whole.scales.view(-1, *[1] * (weight.dim() - 1)) - weight


Probes = Mapping[QuantizedLayer, Sequence[Probe]]
"""The probes of every layer that has any, in network order."""


@dataclass
class Found:
    """What a family of scores found.

    Attributes:
        scores: By place.
        images_forward: Images passed forward.
        images_backward: Images passed backward.
    """

    scores: dict[Place, float] = field(default_factory=dict)
    images_forward: int = 0
    images_backward: int = 0


def probes_of(model: QuantizedModel, choices: Choices) -> dict[QuantizedLayer, tuple[Probe, ...]]:
    """Return what has to be scored: operands that have a choice, at each width below 32."""
    found = {}
    for row, (layer, operands) in enumerate(
        zip(model.quantized_layers.values(), choices, strict=True)
    ):
        places = [
            (row, operand, int(bits))
            for operand, widths in enumerate(operands)
            if len(widths) > 1
            for bits in widths
            if bits < FLOAT_BITS
        ]
        if places:
            found[layer] = tuple(Probe(place, layer) for place in places)
    return found


@contextmanager
def on_output(
    probes: Probes, see: Callable[[Sequence[Probe], tuple[Tensor, ...], Tensor], Any]
) -> Iterator[None]:
    """Call a function after every layer that is probed.

    Args:
        probes: By layer.
        see: Given the layer's probes, inputs and output; returns another output, or None.
    """
    handles = [
        layer.register_forward_hook(lambda _, inputs, out, own=own: see(own, inputs, out))
        for layer, own in probes.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def on_inputs(
    probes: Probes, see: Callable[[Sequence[Probe], tuple[Tensor, ...]], Any]
) -> Iterator[None]:
    """Call a function before every layer that is probed.

    Args:
        probes: By layer.
        see: Given the layer's probes and inputs; returns other inputs, or None.
    """
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, own=own: see(own, inputs))
        for layer, own in probes.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
