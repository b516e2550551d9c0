"""The repair of a layer's weights and bias at a width: rounding first, bias correction after it."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ..config import QuantizerConfig
from ..quantized_layers import QuantizedWeightLayer, RepairedWeight
from ..quantizers import Grid, dequantize, quantize
from .bias import corrected_bias
from .moments import MomentSource
from .rounding import Rounded, RowGrids, best_rounding, best_scales


class WeightRepairer:
    """Makes the repairs that a configuration asks for.

    Args:
        layers: Layers with weights, by name.
        moments: Of their inputs.
        config: Observer of weights, rounding and bias correction.
    """

    def __init__(
        self,
        layers: Mapping[str, QuantizedWeightLayer],
        moments: MomentSource,
        config: QuantizerConfig,
    ) -> None:
        self._layers = dict(layers)
        self._moments = moments
        self._config = config

    def make(self, name: str, bits: int) -> RepairedWeight:
        """Return the repair of a layer at a width of at most 8 bits."""
        layer, moments = self._layers[name], self._moments.of(name)
        weight = layer.inner.get_parameter("weight").detach()
        grid = layer.weight_grid(weight, bits)
        codes, scales = quantize(weight, grid), _flat(grid.scale)
        points = dequantize(codes, grid)
        if self._config.rounding == "adaround" or self._config.weight_observer == "output-mse":
            choose = best_rounding if self._config.rounding == "adaround" else best_scales
            second = moments.covariance if self._config.bias_correction else moments.second
            codes, scales = _by_output(weight, grid, second, partial(choose, bits=bits))
            points = codes * scales.view(-1, *[1] * (weight.dim() - 1))
        bias: Tensor | None = layer.inner._parameters["bias"]
        if self._config.bias_correction:
            bias = corrected_bias(weight.flatten(1), points.flatten(1), bias, moments.mean)
        return RepairedWeight(
            codes.to(torch.int8), scales, None if bias is None else bias.detach().clone()
        )


def _by_output(
    weight: Tensor,
    grid: Grid,
    second: Tensor,
    choose: Callable[[Tensor, Tensor, RowGrids], Rounded],
) -> tuple[Tensor, Tensor]:
    """Return codes in the shape of the weights, and scales, chosen by the error of the output.

    Args:
        weight: The weights.
        grid: To begin with.
        second: Moments of the input: about the mean if a bias takes up the mean error.
        choose: Given weights, moments and grids by group.
    """
    columns = weight.reshape(len(second), -1, weight[0].numel()).transpose(1, 2)
    parts = (torch.as_tensor(part).to(weight) for part in (grid.scale, grid.lowest, grid.highest))
    rows = (part.expand(len(weight), *[1] * (weight.dim() - 1)) for part in parts)
    grids = RowGrids(*(part.reshape(len(second), 1, -1) for part in rows))
    best = choose(columns.contiguous(), second, grids)
    codes = best.codes.transpose(1, 2).reshape(weight.shape)
    return codes, best.grids.scale.flatten()


def _flat(scale: float | Tensor) -> Tensor:
    assert isinstance(scale, Tensor)
    return scale.flatten()
