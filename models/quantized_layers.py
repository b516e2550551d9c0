"""One layer whose operands can be quantized at any width: what a `QuantizedModel` is made of.

A layer stands in the place of the module it wraps and computes with it. Its reference computation
is `QuantizedLayer.compute`; a faster one for some widths has to agree with it.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..spaces import FLOAT_BITS, Bits, Layer, ModelError, Operand
from .config import QuantizerConfig
from .correction import Correction
from .dynamic.container import Container, check_widths
from .dynamic.gates import Gate
from .observers import Histogram, Range, activation_range, weight_fraction
from .plain_layers import plain_kind, plain_product
from .quantizers import (
    CONTAINER_BITS,
    Grid,
    channel_grid,
    fake_quantize,
    multiples,
    quantize,
    tensor_grid,
    weight_grid,
)
from .weight_cache import WeightCache


class ActivationQuantizer:
    """Quantizes one activation with ranges from calibration, computed once per width.

    Args:
        name: What it quantizes, for messages.
        config: Scheme and observer.
        channel_axis: Axis of per-channel widths.

    Attributes:
        gate: Chooses the widths of each input in place of those that are set; None if nothing does.
    """

    def __init__(self, name: str, config: QuantizerConfig, channel_axis: int) -> None:
        self.name = name
        self.channel_axis = channel_axis
        self.gate: Gate | None = None
        self._config = config
        self._histogram = Histogram()
        self._ranges: dict[int, Range] = {}
        self._overrides: dict[int, Range] = {}
        self._grids: dict[bytes, Grid] = {}
        self._containers: dict[tuple[int, ...], Container] = {}

    def reset(self) -> None:
        """Forget what was observed, and the ranges that were given."""
        self._histogram = Histogram()
        self._ranges.clear()
        self._overrides.clear()
        self._forget_grids()

    def observe(self, x: Tensor) -> None:
        """Take a calibration batch into account.

        Raises:
            ModelError: If a value is not finite.
        """
        if not self._histogram.observe(x):
            raise ModelError(f"{self.name} has a value that is not finite on calibration images")

    @property
    def is_calibrated(self) -> bool:
        """Whether anything was observed."""
        return not self._histogram.is_empty

    def range(self, bits: int) -> Range:
        """Return the lower and upper end for a width: calibrated, or given by `override`."""
        if bits in self._overrides:
            return self._overrides[bits]
        if bits not in self._ranges:
            self._ranges[bits] = activation_range(self._histogram, bits, self._config)
        return self._ranges[bits]

    def override(self, bits: int, ends: Range | None) -> None:
        """Put a range in the place of the calibrated one, for plans and passes made from now on.

        Args:
            bits: The width it is for.
            ends: Lower and upper end; None for the calibrated range again.

        Raises:
            ModelError: If they are not finite numbers in order.
        """
        if ends is not None and not -math.inf < ends[0] <= ends[1] < math.inf:
            raise ModelError(f"{self.name} needs finite ends in order, got {ends} at {bits} bits")
        self._overrides.pop(bits, None)
        if ends is not None:
            self._overrides[bits] = float(ends[0]), float(ends[1])
        self._forget_grids()

    def grid(self, bits: Bits) -> Grid:
        """Return the grid for one width, or for widths by channel with one entry per channel.

        Raises:
            ModelError: If nothing was observed.
        """
        self._check_calibrated()
        key = np.asarray(bits, dtype=np.uint8).tobytes()
        if key not in self._grids:
            if isinstance(bits, int):
                grid = tensor_grid(*self.range(bits), bits, self._config.activation_scheme)
            else:
                ranges = {int(b): self.range(int(b)) for b in np.unique(bits) if b < FLOAT_BITS}
                grid = channel_grid(ranges, bits, self._config.activation_scheme)
                # Single widths are few and stay; of those by channel only the last one does.
                self._grids = {key: grid for key, grid in self._grids.items() if len(key) == 1}
            self._grids[key] = grid
        return self._grids[key]

    def container_grids(self, widths: tuple[int, ...]) -> Container:
        """Return the grids of widths that a gate chooses from.

        Args:
            widths: Ascending, of at most 8 bits.

        Raises:
            ModelError: If nothing was observed, or these are no such widths.
        """
        self._check_calibrated()
        if widths not in self._containers:
            check_widths(widths)
            ranges = {width: self.range(width) for width in widths}
            scheme = self._config.activation_scheme
            self._containers[widths] = Container.of(ranges, widths, scheme)
        return self._containers[widths]

    def _check_calibrated(self) -> None:
        if not self.is_calibrated:
            raise ModelError(f"{self.name} has no range yet: call calibrate first")

    def _forget_grids(self) -> None:
        self._grids.clear()
        self._containers.clear()

    def __call__(self, x: Tensor, bits: Bits) -> Tensor:
        """Return the quantized activation."""
        if self.gate is not None:
            return self.gate.quantized(x, self.container_grids(self.gate.widths))
        if isinstance(bits, int):
            return x if bits == FLOAT_BITS else fake_quantize(x, self.grid(bits))
        shape = [1] * x.dim()
        shape[self.channel_axis] = -1
        return fake_quantize(x, self.grid(bits).reshaped(shape, x.device))

    def multiples(self, x: Tensor, bits: Bits) -> tuple[Tensor, float]:
        """Return whole numbers, and the unit that times them is the quantized activation.

        Args:
            x: The activation.
            bits: Widths of at most 8 bits.
        """
        if self.gate is not None:
            container = self.container_grids(self.gate.widths)
            return multiples(x, self.gate.grid(x, container)), container.unit
        grid = self.grid(bits)
        if not isinstance(bits, int):
            shape = [1] * x.dim()
            shape[self.channel_axis] = -1
            grid = grid.reshaped(shape, x.device)
        assert grid.unit is not None
        return multiples(x, grid), grid.unit


@dataclass(frozen=True, slots=True, eq=False)
class WeightCodes:
    """Quantized weights as whole numbers, and the bias that goes with them.

    Attributes:
        codes: Integers in float, in the shape of the weights.
        scales: What they are times, by output channel.
        bias: By output channel, or None.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.codes.nbytes + self.scales.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class RepairedWeight:
    """What stands for a layer's weights and bias at one width, in place of their nearest points.

    Attributes:
        codes: Whole numbers on the width's symmetric grid, in the shape of the weights; int8 takes
            the least memory.
        scales: What they are times, ``[out]``; positive.
        bias: ``[out]``, or None for no bias; a layer without a bias may get one.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None


class NetworkState:
    """What the parameters and buffers of a network are, as it is now.

    Args:
        network: The network; its tensors may change, but not which they are.
    """

    def __init__(self, network: nn.Module) -> None:
        self._tensors = [*network.parameters(), *network.buffers()]
        self._known: tuple[object, bytes] | None = None

    def digest(self) -> bytes:
        """Return a name of all values."""
        state = [(tensor._version, tensor.data_ptr()) for tensor in self._tensors]
        if self._known is None or self._known[0] != state:
            digest = hashlib.blake2b(digest_size=16)
            for tensor in self._tensors:
                values = tensor.detach().cpu().contiguous().flatten()
                digest.update(values.view(torch.uint8).numpy().tobytes())
            self._known = state, digest.digest()
        return self._known[1]


class Repairs(MutableMapping[int, RepairedWeight]):
    """Repaired weights of a layer by width.

    Each holds only for the weights that the network had when it was put here: with others, as after
    training, it is as if it was not there; with the same again it is in force again.

    Args:
        inner: The layer's module.
    """

    def __init__(self, inner: nn.Module) -> None:
        self._inner = inner
        self._state = NetworkState(inner)
        self._entries: dict[int, tuple[bytes, RepairedWeight]] = {}
        self._maker: tuple[bytes, Callable[[int], RepairedWeight]] | None = None

    def __getitem__(self, bits: int) -> RepairedWeight:
        digest, found = self._entries[bits]
        if digest != self._state.digest():
            raise KeyError(bits)
        return found

    def __setitem__(self, bits: int, repaired: RepairedWeight) -> None:
        """Put a repair in force, for the present weights.

        Raises:
            ModelError: If the layer computes in a way of its own, or the width is above 8 bits.
        """
        if plain_kind(self._inner) is None:
            raise ModelError(
                f"weights of {type(self._inner).__name__}, which has its own forward, "
                "cannot be repaired"
            )
        if bits > CONTAINER_BITS:
            raise ModelError(f"repairs are for at most {CONTAINER_BITS} bits, got {bits}")
        self._entries[bits] = self._state.digest(), repaired

    def __delitem__(self, bits: int) -> None:
        self[bits]
        del self._entries[bits]

    def __iter__(self) -> Iterator[int]:
        return (bits for bits in list(self._entries) if bits in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def reset(
        self,
        make: Callable[[int], RepairedWeight] | None = None,
        state: NetworkState | None = None,
    ) -> None:
        """Forget all repairs.

        Args:
            make: Makes, from now on, what is missing for a width, for the present weights.
            state: Of the network that the repairs depend on; of the layer alone if None.
        """
        self._entries.clear()
        self._state = NetworkState(self._inner) if state is None else state
        self._maker = None if make is None else (self._state.digest(), make)

    def at(self, bits: int) -> RepairedWeight | None:
        """Return what is in force at a width, made if it can be; None for the nearest points."""
        if not self._entries and self._maker is None:
            return None
        digest = self._state.digest()
        entry = self._entries.get(bits)
        if entry is not None and entry[0] == digest:
            return entry[1]
        if self._maker is None or bits > CONTAINER_BITS or self._maker[0] != digest:
            return None
        with torch.inference_mode(False), torch.no_grad():
            self[bits] = self._maker[1](bits)
        return self[bits]


def parameter_state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes when the parameters of a module do."""
    return tuple((p._version, p.data_ptr()) for p in module.parameters())


class QuantizedLayer(nn.Module):
    """A module whose input activation, and weights or right operand, have switchable widths.

    Attributes of the module are those of the wrapper too, so that a network which reads, say,
    ``fc.in_features`` goes on working.

    Args:
        inner: The module to compute with.
        layer: Its description.
        config: How ranges are chosen.

    Attributes:
        weight_bits: Widths of the weights, or of the right operand.
        activation_bits: Widths of the input.
        observing: Whether inputs are taken into account for calibration.
        kernel: Computes in place of `compute`; None if nothing does.
    """

    weight_bits: Bits = FLOAT_BITS
    activation_bits: Bits = FLOAT_BITS
    observing = False
    kernel: Callable[..., Tensor] | None = None

    def __init__(self, inner: nn.Module, layer: Layer, config: QuantizerConfig) -> None:
        super().__init__()
        self.inner = inner
        self.layer = layer
        self.config = config
        self.training = inner.training
        axis = -3 if layer.kind == "conv" else -1
        what = f"the input of layer {layer.name!r}"
        self.left = ActivationQuantizer(what, config, axis)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":  # not there yet, as in the middle of unpickling
                raise
            return getattr(self.inner, name)

    def forward(self, *operands: Tensor) -> Tensor:
        """Return the layer's output at the widths set."""
        if self.observing:
            self.observe(*operands)
        if self.kernel is not None:
            return self.kernel(*operands)
        return self.compute(operands, self.weight_bits, self.activation_bits)

    def observe(self, *operands: Tensor) -> None:
        """Take a calibration batch into account."""
        self.left.observe(operands[0])

    def reset(self) -> None:
        """Forget what was observed."""
        self.left.reset()

    @property
    def quantizers(self) -> Mapping[Operand, ActivationQuantizer]:
        """What quantizes activations, by operand."""
        return {"activation": self.left}

    def compute(
        self, operands: tuple[Tensor, ...], weight_bits: Bits, activation_bits: Bits
    ) -> Tensor:
        """Return the layer's output at given widths: the definition of correct.

        Where both operands have at most 8 bits and no gradient is recorded, whole numbers are
        multiplied and their sums are scaled once. Below 2^24 float32 holds such a sum exactly,
        in whatever order it is taken; so the result is the same with any kernel, on any machine.
        A quantizer with a gate has it choose the widths.
        """
        raise NotImplementedError

    def _is_whole(self, weight_bits: Bits, activation_bits: Bits, *tensors: Tensor) -> bool:
        """Whether a product of these tensors at these widths is one of whole numbers."""
        if not all(tensor.dtype in (torch.float32, torch.float64) for tensor in tensors):
            return False  # narrower types do not hold the sums
        recorded = torch.is_grad_enabled() and (
            self._chooses_with_gradients or any(tensor.requires_grad for tensor in tensors)
        )
        widest = max(np.max(weight_bits), np.max(activation_bits))
        return not recorded and bool(widest <= CONTAINER_BITS)

    @property
    def _chooses_with_gradients(self) -> bool:
        gates = (quantizer.gate for quantizer in self.quantizers.values())
        return any(gate is not None and gate.is_recorded for gate in gates)


class QuantizedWeightLayer(QuantizedLayer):
    """A convolution or linear layer; see `QuantizedLayer`.

    Args:
        inner: A ``Conv2d`` or ``Linear``, or a subclass. One with its own ``forward`` (which pads,
            or standardises its weights) is quantized where it calls ``conv2d`` or ``linear``.
        layer: Its description.
        config: How ranges are chosen.
        cache: Where quantized weights are kept between forward passes without gradients.

    Attributes:
        repairs: What stands for the weights and bias at a width, in place of their nearest points,
            wherever no gradient is recorded. Channels with widths of their own take their rows
            from the repair of their width.
        correction: What is done to the output at whatever widths, if anything.
    """

    correction: Correction | None = None

    def __init__(
        self, inner: nn.Module, layer: Layer, config: QuantizerConfig, cache: WeightCache
    ) -> None:
        super().__init__(inner, layer, config)
        self._cache = cache
        self._fractions: dict[int, tuple[object, Tensor]] = {}
        self.repairs = Repairs(inner)

    def reset(self) -> None:
        """Forget what was observed, and the repairs."""
        super().reset()
        self.repairs.reset()

    def compute(
        self, operands: tuple[Tensor, ...], weight_bits: Bits, activation_bits: Bits
    ) -> Tensor:
        """Return the output for quantized input and weights."""
        (x,) = operands
        inner, weight = self.inner, self.inner.get_parameter("weight")
        is_plain = plain_kind(inner) is not None
        if is_plain and self._is_whole(weight_bits, activation_bits, x, weight):
            whole, unit = self.left.multiples(x, activation_bits)
            codes = self._kept_codes(weight_bits)
            if self.correction is not None:
                codes = replace(codes, **self.correction.absorbed(codes.scales, codes.bias))
            return self.whole_product(whole, unit, codes)
        x = self.left(x, activation_bits)
        if isinstance(weight_bits, int) and weight_bits == FLOAT_BITS:
            out: Tensor = inner(x)
        elif is_plain:
            bias = self._bias(weight_bits)
            out = plain_product(x, self._quantized(weight, weight_bits), bias, inner)
        else:
            with _OnWeight(lambda weight: self._quantized(weight, weight_bits)):
                out = inner(x)
        return out if self.correction is None else self.correction(out, self.left.channel_axis)

    def whole_product(self, x: Tensor, unit: float, weight: WeightCodes) -> Tensor:
        """Return the output for an input of whole numbers times a unit.

        The sums of products are multiplied by the float32 product of both scales; the bias is
        added to that.

        Args:
            x: Whole numbers in float.
            unit: What they are times.
            weight: From `weight_codes`.
        """
        column = (-1, 1, 1) if isinstance(self.inner, nn.Conv2d) else (-1,)
        out = plain_product(x, weight.codes, None, self.inner).mul_(
            (weight.scales * unit).view(column)
        )
        return out if weight.bias is None else out.add_(weight.bias.view(column))

    def weight_codes(self, bits: Bits) -> WeightCodes:
        """Return the weights as whole numbers, repaired where they are, without gradients.

        Args:
            bits: One width, or one per output channel, of at most 8 bits.

        Raises:
            ModelError: If a weight or the bias is not finite.
        """
        check_finite(self.inner, self.layer.name)
        # What is kept of it must serve later passes that record gradients, too.
        with torch.inference_mode(False), torch.no_grad():
            weight = self.inner.get_parameter("weight")
            grid = self.weight_grid(weight, bits)
            assert isinstance(grid.scale, Tensor)
            codes, scales = quantize(weight, grid), grid.scale.flatten()
            for rows, repaired in self._repaired_rows(bits):
                codes[rows] = repaired.codes.to(codes)[rows]
                scales[rows] = repaired.scales.to(scales)[rows]
            bias = self._repaired_bias(bits)
            return WeightCodes(codes, scales, None if bias is None else bias.detach())

    def _kept_codes(self, bits: Bits) -> WeightCodes:
        key = ("codes", self.layer.name, np.asarray(bits, dtype=np.uint8).tobytes())
        return self._cache.get(key, self.weight_state(bits), lambda: self.weight_codes(bits))

    def _repaired_rows(self, bits: Bits) -> list[tuple[Tensor, RepairedWeight]]:
        """Return the repairs in force at given widths, and the rows that each is for."""
        weight = self.inner.get_parameter("weight")
        widths = np.broadcast_to(np.asarray(bits), (len(weight),))
        return [
            (torch.from_numpy(widths == width).to(weight.device), repaired)
            for width in np.unique(bits).tolist()
            if (repaired := self.repairs.at(width)) is not None
        ]

    def _repaired_bias(self, bits: Bits) -> Tensor | None:
        bias: Tensor | None = self.inner._parameters["bias"]
        weight = self.inner.get_parameter("weight")
        for rows, repaired in self._repaired_rows(bits):
            if repaired.bias is None:
                continue
            if bias is None:
                bias = weight.new_zeros(len(weight))
            bias = torch.where(rows, repaired.bias.to(bias), bias)
        return bias

    def _bias(self, bits: Bits) -> Tensor | None:
        """Return the bias that goes with `_quantized` weights."""
        bias: Tensor | None = self.inner._parameters["bias"]
        if self._is_recorded(self.inner.get_parameter("weight")):
            return bias
        with torch.no_grad():
            return self._repaired_bias(bits)

    def _is_recorded(self, weight: Tensor) -> bool:
        return torch.is_grad_enabled() and weight.requires_grad

    def weight_grid(self, weight: Tensor, bits: Bits) -> Grid:
        """Return the grids of the weights by output channel.

        Where gradients are on, the share of max|w| that an ``mse`` range takes is the last one
        that was searched, and only max|w| follows the weights: a search at every step of training
        would cost more than the step. Without gradients the range follows from the weights alone.

        Args:
            weight: The weights that the layer computes with.
            bits: One width, or one per output channel.

        Raises:
            ModelError: If a weight is not finite.
        """
        with torch.no_grad():
            largest = weight.detach().reshape(weight.shape[0], -1).abs().amax(dim=1)
            if not torch.isfinite(largest).all():
                raise ModelError(f"layer {self.layer.name!r} has weights that are not finite")
            fraction = torch.ones_like(largest)
            widths = np.broadcast_to(np.asarray(bits), (len(largest),))
            for width in np.unique(widths).tolist():
                rows = torch.from_numpy(widths == width).to(weight.device)
                fraction = torch.where(rows, self._fraction(weight, width), fraction)
            column = (largest * fraction).view(-1, *[1] * (weight.dim() - 1))
            return weight_grid(column, bits)

    def _fraction(self, weight: Tensor, bits: int) -> Tensor:
        state, found = self.weight_state(), self._fractions.get(bits)
        if found is None or not (found[0] == state or torch.is_grad_enabled()):
            found = state, weight_fraction(weight, bits, self.config.weight_observer)
            self._fractions[bits] = found
        return found[1]

    def _quantized(self, weight: Tensor, bits: Bits) -> Tensor:
        def make() -> Tensor:
            # What is kept must serve later passes that record gradients, too.
            with torch.inference_mode(False), torch.no_grad():
                points = fake_quantize(weight, self.weight_grid(weight, bits))
                for rows, repaired in self._repaired_rows(bits):
                    column = repaired.scales.to(points)[rows].view(-1, *[1] * (points.dim() - 1))
                    points[rows] = repaired.codes.to(points)[rows] * column
                return points

        if self._is_recorded(weight):
            return fake_quantize(weight, self.weight_grid(weight, bits))
        key = ("quantized", self.layer.name, np.asarray(bits, dtype=np.uint8).tobytes())
        return self._cache.get(key, self.weight_state(bits), make)

    def weight_state(self, bits: Bits | None = None) -> tuple[object, ...]:
        """Return what changes when the weights do.

        Args:
            bits: If given, also what changes when their repairs at these widths do.
        """
        state: tuple[object, ...] = parameter_state(self.inner)
        if bits is None:
            return state
        return (*state, *(self.repairs.at(width) for width in np.unique(bits).tolist()))


def check_finite(module: nn.Module, name: str) -> None:
    """Check that no weight or bias of a layer is infinite or not a number.

    Quantizers would hide it: they clamp what is infinite.

    Args:
        module: The layer.
        name: What it is called.

    Raises:
        ModelError: If one is.
    """
    for parameter_name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            what = "a bias that is" if parameter_name == "bias" else "weights that are"
            raise ModelError(f"layer {name!r} has {what} not finite")


class QuantizedMatMul(QuantizedLayer):
    """A product of two activations; the width called ``weight`` is the right operand's."""

    def __init__(self, inner: nn.Module, layer: Layer, config: QuantizerConfig) -> None:
        super().__init__(inner, layer, config)
        what = f"the right operand of layer {layer.name!r}"
        self.right = ActivationQuantizer(what, config, -1)

    @property
    def quantizers(self) -> Mapping[Operand, ActivationQuantizer]:
        """What quantizes activations, by operand."""
        return {"activation": self.left, "weight": self.right}

    def observe(self, *operands: Tensor) -> None:
        """Take a calibration batch into account."""
        self.left.observe(operands[0])
        self.right.observe(operands[1])

    def reset(self) -> None:
        """Forget what was observed."""
        self.left.reset()
        self.right.reset()

    def compute(
        self, operands: tuple[Tensor, ...], weight_bits: Bits, activation_bits: Bits
    ) -> Tensor:
        """Return the product of the quantized operands."""
        left, right = operands
        if not self._is_whole(weight_bits, activation_bits, left, right):
            out: Tensor = self.inner(
                self.left(left, activation_bits), self.right(right, weight_bits)
            )
            return out
        left, left_unit = self.left.multiples(left, activation_bits)
        right, right_unit = self.right.multiples(right, weight_bits)
        return self.whole_product(left, right, left_unit * right_unit)

    def whole_product(self, left: Tensor, right: Tensor, unit: float) -> Tensor:
        """Return the product of whole numbers, times a unit."""
        out: Tensor = self.inner(left, right)
        return out.mul_(unit)


class _OnWeight(TorchFunctionMode):
    """Changes the weight of every ``conv2d`` and ``linear`` that is called under it."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._change = change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (nn.functional.conv2d, nn.functional.linear):
            if "weight" in kwargs:
                kwargs["weight"] = self._change(kwargs["weight"])
            else:
                args = (args[0], self._change(args[1]), *args[2:])
        return func(*args, **kwargs)
