"""Learning the roundings and ranges of one block.

What is minimised, by Adam, over batches of calibration images:

    error / error at the start + PENALTY * undecided

The error is the mean square of what the block's output is off, at the start with the nearest
codes. What is undecided is the mean of ``1 - |2 h(v) - 1|^beta`` over a layer's weights, averaged
over the layers, which vanishes once every rounding is up or down. beta falls from 20, which moves
those that are nearly decided, to 2, which moves all. (BRECQ sums the error over channels, and what
is undecided over all weights, and weighs that by 0.01. How the two compare then depends on the
scale of the activations and on the sizes of layers.)
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...spaces import FLOAT_BITS, Bits
from ..plain_layers import plain_kind, plain_product
from ..quantized_layers import (
    ActivationQuantizer,
    QuantizedLayer,
    QuantizedMatMul,
    QuantizedWeightLayer,
)
from ..quantizers import CONTAINER_BITS
from .blocks import Block
from .ranges import LearnedRange
from .rounding import SoftWeight

Method = Literal["brecq", "qdrop"]

BATCH = 32
"""Images per step."""
ROUNDING_RATE = 3e-2
"""Learning rate of roundings; thirty times that of the papers, whose steps are fifty times more."""
SCALE_RATE = 1e-3
"""Learning rate of biases, and of the logarithms of the scales of weights."""
RANGE_RATE = 2e-3
"""Learning rate of the logarithms of steps of activations; falls to 0 along a cosine."""
PENALTY = 4.0
BETA_FIRST, BETA_LAST = 20.0, 2.0
FREE = 0.2
"""Share of the steps at the start in which nothing pushes roundings to a decision."""
KEPT = 0.5
"""QDrop: probability that a quantized value is used, and not the one in float."""
RANGE_STEPS = 0.25
"""BRECQ: steps for the ranges, as a share of those for the roundings."""

Widths = Mapping[QuantizedLayer, tuple[Bits, Bits]]
"""Of every layer: weights (or right operand), and input."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What a block is given and has to return, for all calibration images.

    Attributes:
        quantized: Its inputs in the quantized network so far.
        full: Its inputs in the float network.
        target: Its output in the float network.
        error: Mean square by which its output is off the target before anything is learned.
    """

    quantized: tuple[Tensor, ...]
    full: tuple[Tensor, ...]
    target: Tensor
    error: float


class SoftBlock:
    """A block whose roundings and ranges are parameters.

    Activations of 8 and more bits are not quantized while it learns: their error is far below that
    of what is learned. Activations with widths by channel keep their ranges.

    Args:
        block: The block.
        widths: Of its layers.
        finished: Layers that an earlier block has learned, which stay as they are.

    Attributes:
        weights: What is learned of layers with narrow weights.
        ranges: What is learned of narrow activations.
    """

    def __init__(self, block: Block, widths: Widths, finished: Set[QuantizedLayer]) -> None:
        self.weights: dict[QuantizedLayer, SoftWeight] = {}
        self.ranges: dict[ActivationQuantizer, LearnedRange] = {}
        self._block, self._widths = block, widths
        for layer in block.layers:
            if layer in finished:
                continue
            weight_bits, activation_bits = widths[layer]
            self._add_range(layer, layer.left, activation_bits)
            if isinstance(layer, QuantizedMatMul):
                self._add_range(layer, layer.right, weight_bits)
            elif (
                isinstance(layer, QuantizedWeightLayer)
                and plain_kind(layer.inner) is not None
                and np.min(weight_bits) < CONTAINER_BITS
            ):
                self.weights[layer] = SoftWeight(layer, weight_bits)

    def learn(
        self, samples: Samples, method: Method, steps: int, generator: torch.Generator
    ) -> None:
        """Learn roundings and ranges, and put them in force.

        Args:
            samples: Inputs and outputs for all images.
            method: ``brecq`` learns the roundings, with the block's activations in float, and then
                the ranges; ``qdrop`` learns both together, while half of all quantized values, of
                the block's input and in it, are those of the float network.
            steps: Of gradient descent, for the roundings.
            generator: Draws batches, and what is dropped.
        """
        descent = _Descent(self, self._block, self._widths, samples, generator)
        if method == "qdrop":
            descent.run(steps, KEPT, KEPT, roundings=True)
        else:
            if self.weights:
                descent.run(steps, 1.0, 0.0, roundings=True)
            if self.ranges:
                descent.run(max(1, round(RANGE_STEPS * steps)), 1.0, 1.0, roundings=False)
        for weight in self.weights.values():
            weight.put_in_force()
        for learned in self.ranges.values():
            learned.put_in_force()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn."""
        return not (self.weights or self.ranges)

    def put_out_of_force(self) -> None:
        """Let the layers be as they were before `learn`."""
        for weight in self.weights.values():
            weight.put_out_of_force()
        for learned in self.ranges.values():
            learned.put_out_of_force()

    def _add_range(self, layer: QuantizedLayer, quantizer: ActivationQuantizer, bits: Bits) -> None:
        if isinstance(bits, int) and bits < CONTAINER_BITS:
            is_affine = layer.config.activation_scheme == "affine"
            self.ranges[quantizer] = LearnedRange(quantizer, bits, is_affine)


class _Descent:
    """Gradient descent on a soft block; state of the present step."""

    def __init__(
        self,
        soft: SoftBlock,
        block: Block,
        widths: Widths,
        samples: Samples,
        generator: torch.Generator,
    ) -> None:
        self._soft, self._block, self._widths = soft, block, widths
        self._samples, self._generator = samples, generator
        self._kept_inside = 0.0
        self._roundings: dict[QuantizedLayer, Tensor] = {}

    def run(self, steps: int, kept: float, kept_inside: float, *, roundings: bool) -> None:
        """Take steps.

        Args:
            steps: How many.
            kept: Share of the block's input that is the quantized network's.
            kept_inside: Share of the activations in the block that are quantized.
            roundings: Whether roundings are learned; they are decided if not.
        """
        self._kept_inside = kept_inside
        weights = self._soft.weights
        ranges = self._soft.ranges.values() if kept_inside else ()
        learned = list(weights.values()) if roundings else []
        changes = [one.bias_change for one in learned if one.bias_change is not None]
        optimizer = torch.optim.Adam(
            [
                {"params": [one.log_step for one in ranges], "lr": RANGE_RATE},
                {"params": [one.v for one in learned], "lr": ROUNDING_RATE},
                {"params": [*changes, *(one.log_factor for one in learned)], "lr": SCALE_RATE},
            ]
        )
        for step in range(steps):
            progress = step / steps
            optimizer.param_groups[0]["lr"] = RANGE_RATE * (1 + math.cos(math.pi * progress)) / 2
            self._roundings = {
                layer: weight.rounding() if roundings else weight.decided()
                for layer, weight in weights.items()
            }
            loss = self._error(kept)
            if learned and progress >= FREE:
                beta = BETA_LAST + (BETA_FIRST - BETA_LAST) * (1 - progress) / (1 - FREE)
                for layer, weight in weights.items():
                    undecided = weight.undecided(self._roundings[layer], beta)
                    loss = loss + PENALTY / len(learned) * undecided
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _error(self, kept: float) -> Tensor:
        samples = self._samples
        drawn = torch.randperm(len(samples.target), generator=self._generator)[:BATCH]
        inputs = tuple(
            self._mixed(quantized[drawn], full[drawn], kept)
            for quantized, full in zip(samples.quantized, samples.full, strict=True)
        )
        out, target = self._block.run(inputs, self._call), samples.target[drawn]
        return (out - target).square().mean() / samples.error

    def _call(self, layer: QuantizedLayer, operands: tuple[Tensor, ...]) -> Tensor:
        """Compute a layer with what is being learned, and the rest as it will be used."""
        weight_bits, _ = self._widths[layer]
        x = self._quantized(layer.left, operands[0])
        if isinstance(layer, QuantizedMatMul):
            product: Tensor = layer.inner(x, self._quantized(layer.right, operands[1]))
            return product
        if layer not in self._soft.weights:
            return layer.compute((x,), weight_bits, FLOAT_BITS)
        soft = self._soft.weights[layer]
        return plain_product(x, soft.weight(self._roundings[layer]), soft.bias(), layer.inner)

    def _quantized(self, quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
        learned = self._soft.ranges.get(quantizer)
        if learned is None or not self._kept_inside:
            return x
        return self._mixed(learned(x), x, self._kept_inside)

    def _mixed(self, quantized: Tensor, full: Tensor, kept: float) -> Tensor:
        if kept == 1.0:
            return quantized
        return torch.where(_drawn(full, kept, self._generator), quantized, full)


def _drawn(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return a mask in the shape and memory format of a tensor, true with some probability.

    Every random byte decides one element; so it takes a fifth of the time of ``bernoulli_``.

    Args:
        x: The tensor.
        share: The probability, a multiple of 1/256.
        generator: On the CPU.
    """
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    layout = torch.empty_like(x, dtype=torch.uint8)
    below = words.view(torch.uint8)[: x.numel()] < round(256 * share)
    return below.as_strided(layout.shape, layout.stride()).to(x.device)
