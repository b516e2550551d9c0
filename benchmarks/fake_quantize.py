"""The usual simulation of quantization, to compare with: torch's fake-quantize operators.

Every input is fake-quantized per tensor and every weight per output channel, in each forward pass,
as the observers and modules of torch's own quantization workflows do.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitfront.models.quantized import QuantizedModel
from bitfront.models.quantized_layers import (
    ActivationQuantizer,
    QuantizedLayer,
    QuantizedMatMul,
    QuantizedWeightLayer,
)
from bitfront.models.surgery import replace_modules

BITS = 8


class _FakeQuantizedWeight(nn.Module):
    """A parametrization: computed each time the weight is read."""

    def __init__(self, scales: Tensor) -> None:
        super().__init__()
        self.scales = scales
        self.zero_points = torch.zeros_like(scales, dtype=torch.int32)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.fake_quantize_per_channel_affine(
            weight, self.scales, self.zero_points, 0, -128, 127
        )


class _FakeQuantizedLayer(nn.Module):
    """A layer that fake-quantizes its operands."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.inner = layer.inner
        self._grids = [_grid(layer.left)]
        if isinstance(layer, QuantizedMatMul):
            self._grids.append(_grid(layer.right))
        if isinstance(layer, QuantizedWeightLayer):
            weight = layer.inner.get_parameter("weight")
            scales = torch.as_tensor(layer.weight_grid(weight, BITS).scale).flatten()
            parametrize.register_parametrization(
                self.inner, "weight", _FakeQuantizedWeight(scales.float())
            )

    def forward(self, *operands: Tensor) -> Tensor:
        out: Tensor = self.inner(
            *(
                torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 2**BITS - 1)
                for x, (scale, zero_point) in zip(operands, self._grids, strict=True)
            )
        )
        return out


def fake_quantized(model: QuantizedModel) -> nn.Module:
    """Return a copy of a calibrated model's network, folded, at 8 bits with torch's operators.

    Args:
        model: Its ranges are taken.
    """
    network = copy.deepcopy(model).network
    layers = [m for m in network.modules() if isinstance(m, QuantizedLayer)]
    with torch.no_grad():
        return replace_modules(network, {layer: _FakeQuantizedLayer(layer) for layer in layers})


def _grid(quantizer: ActivationQuantizer) -> tuple[float, int]:
    grid = quantizer.grid(BITS)
    return float(grid.scale), int(grid.zero_point)
