"""Reconstruction of a whole network, block after block."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...spaces import FLOAT_BITS, BitAllocation, ModelError
from ..engine.graph import TraceError, trace
from ..quantized import Batch, QuantizedModel, images_of
from ..quantized_layers import QuantizedLayer
from .blocks import Block, LayerCall, find_blocks, layer_block
from .optimize import Method, Samples, SoftBlock, Widths

_EXAMPLE_IMAGES = 8


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What reconstruction did to one block.

    Attributes:
        name: What the names of its layers have in common.
        layers: Its layers.
        loss_before: Mean squared error of its output over the calibration images, given the
            blocks before it as they are now.
        loss_after: The same with what was learned; never more.
        is_learned: Whether what was learned is in force: it is not where there was nothing to
            learn, or where it did not help.
        wall_s: Seconds it took.
    """

    name: str
    layers: tuple[str, ...]
    loss_before: float
    loss_after: float
    is_learned: bool
    wall_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What reconstruction did to a network.

    Attributes:
        method: ``brecq`` or ``qdrop``.
        steps: Of gradient descent, for each block.
        images: Calibration images.
        blocks: Each block, in order.
        untraced: Why every layer is a block of its own; None where blocks were found.
        wall_s: Seconds it took.
    """

    method: Method
    steps: int
    images: int
    blocks: tuple[BlockReport, ...]
    untraced: str | None
    wall_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return asdict(self)


def reconstruct(
    model: QuantizedModel,
    allocation: BitAllocation,
    batches: Sequence[Batch],
    method: Method,
    *,
    steps: int,
    generator: torch.Generator,
) -> Report:
    """Learn the roundings and ranges of an allocation, and set it.

    For each block in order: its input comes from the network quantized so far, and its output shall
    be that of the float network. What is learned replaces, by width, the layers' quantized weights
    and calibrated ranges. So afterwards the model serves this allocation only.

    Three activations are kept for all images: a block's inputs in both networks and its output.

    Args:
        model: Calibrated; its float weights stay as they are.
        allocation: The widths.
        batches: Calibration images, or pairs whose labels are ignored.
        method: ``brecq`` or ``qdrop``; see `optimize.SoftBlock.learn`.
        steps: Of gradient descent, for each block.
        generator: Draws batches, and what is dropped; on the CPU, as the model.

    Raises:
        ModelError: If the allocation is not for this model, or there are no images.
    """
    started = time.perf_counter()
    model.set_allocation(allocation)
    images = [model.arranged(images_of(batch)) for batch in batches]
    if not images:
        raise ModelError("reconstruction needs at least one batch of images, got none")
    layers = model.quantized_layers.values()
    widths = dict(
        zip(layers, zip(allocation.weights, allocation.activations, strict=True), strict=True)
    )
    reports: list[BlockReport] = []
    finished: set[QuantizedLayer] = set()
    with _frozen(model):
        blocks, untraced = _blocks(model, images[0][:_EXAMPLE_IMAGES])
        source = _Chain(images) if untraced is None else _Watched(model, images)
        for block in blocks:
            soft = SoftBlock(block, widths, finished)
            learn = partial(soft.learn, method=method, steps=steps, generator=generator)
            reports.append(_improved(block, soft, source, widths, learn))
            finished.update(block.layers)
    count = sum(len(batch) for batch in images)
    wall_s = time.perf_counter() - started
    return Report(method, steps, count, tuple(reports), untraced, wall_s)


def _improved(
    block: Block,
    soft: SoftBlock,
    source: "_Source",
    widths: Widths,
    learn: Callable[[Samples], None],
) -> BlockReport:
    """Let a block learn, keep what it learned if that helps, and go on to the next."""
    started = time.perf_counter()
    quantized, full = source.inputs(block)
    target = source.run(block, full, _float)
    out = source.run(block, quantized, _hard(widths))
    before = after = _error(out, target)
    if before > 0 and not soft.is_empty:
        with torch.enable_grad():
            learn(Samples(quantized, full, target, before))
        learned = source.run(block, quantized, _hard(widths))
        after = _error(learned, target)
        if after < before:
            out = learned
        else:
            soft.put_out_of_force()
    source.advance(out, target)
    names = tuple(layer.layer.name for layer in block.layers)
    wall_s = time.perf_counter() - started
    return BlockReport(block.name, names, before, min(before, after), after < before, wall_s)


class _Source(Protocol):
    """Where the inputs and the target of a block come from."""

    def inputs(self, block: Block) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return a block's inputs in the quantized and in the float network."""

    def run(self, block: Block, inputs: Sequence[Tensor], call: LayerCall) -> Tensor:
        """Return a block's output for all images."""

    def advance(self, quantized: Tensor, full: Tensor) -> None:
        """Go on to the next block, given the output of this one in both networks."""


class _Chain:
    """Blocks that are given what the block before them returns.

    Args:
        images: Batches, in the memory format of the network.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        self._batch_size = len(images[0])
        self._quantized = self._full = torch.cat(list(images))

    def inputs(self, block: Block) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return a block's inputs in the quantized and in the float network."""
        return (self._quantized,), (self._full,)

    def run(self, block: Block, inputs: Sequence[Tensor], call: LayerCall) -> Tensor:
        """Return a block's output for all images."""
        parts = zip(*(torch.split(x, self._batch_size) for x in inputs), strict=True)
        return torch.cat([block.run(part, call) for part in parts])

    def advance(self, quantized: Tensor, full: Tensor) -> None:
        """Keep what the next block is given."""
        self._quantized, self._full = quantized, full


class _Watched(_Chain):
    """Layers whose operands are seen while the whole network runs; of several calls, the first.

    Args:
        model: The network, at the allocation.
        images: Batches, in the memory format of the network.
    """

    def __init__(self, model: QuantizedModel, images: Sequence[Tensor]) -> None:
        super().__init__(images)
        self._model, self._images = model, images

    def inputs(self, block: Block) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return a layer's operands in the quantized and in the float network."""
        (layer,) = block.layers
        allocation = self._model.allocation
        quantized = self._operands(layer)
        self._model.set_allocation(None)
        full = self._operands(layer)
        self._model.set_allocation(allocation)
        return quantized, full

    def advance(self, quantized: Tensor, full: Tensor) -> None:
        """Nothing is kept."""

    def _operands(self, layer: QuantizedLayer) -> tuple[Tensor, ...]:
        """Return a layer's operands for all images."""
        seen: list[tuple[Tensor, ...]] = []

        def look(_: nn.Module, operands: tuple[Tensor, ...]) -> None:
            if len(seen) == batch:
                seen.append(operands)

        handle = layer.register_forward_pre_hook(look)
        try:
            for batch, images in enumerate(self._images):  # noqa: B007
                self._model(images)
        finally:
            handle.remove()
        return tuple(torch.cat(parts) for parts in zip(*seen, strict=True))


def _blocks(model: QuantizedModel, example: Tensor) -> tuple[list[Block], str | None]:
    """Return the blocks of a network, or its layers and why it cannot be cut into blocks."""
    allocation = model.allocation
    model.set_allocation(None)
    try:
        return find_blocks(trace(model.network, example)), None
    except TraceError as error:
        return [layer_block(layer) for layer in model.quantized_layers.values()], str(error)
    finally:
        model.set_allocation(allocation)


@contextmanager
def _frozen(model: QuantizedModel) -> Iterator[None]:
    """Record no gradients, unless asked to, and none of the network's own parameters."""
    recorded = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    try:
        for parameter in recorded:
            parameter.requires_grad_(False)
        with torch.no_grad():
            yield
    finally:
        for parameter in recorded:
            parameter.requires_grad_(True)
        model.train(training)


def _float(layer: QuantizedLayer, operands: tuple[Tensor, ...]) -> Tensor:
    return layer.compute(operands, FLOAT_BITS, FLOAT_BITS)


def _hard(widths: Widths) -> LayerCall:
    return lambda layer, operands: layer.compute(operands, *widths[layer])


def _error(out: Tensor, target: Tensor) -> float:
    return float((out - target).square().mean(dtype=torch.float64))
