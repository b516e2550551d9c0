"""Accuracy and loss of a network on labelled images."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from ..spaces import BitAllocation, Usage
from .engine import Engine
from .images import ImageSet
from .quantized import QuantizedModel
from .quantized_layers import QuantizedLayer


@dataclass(frozen=True, slots=True)
class Counts:
    """What a pass over images counted.

    Attributes:
        correct: Images whose largest logit is their label's.
        loss_sum: Cross-entropy summed over the images, in nats.
        samples: Images seen.
        wall_s: Wall time.
        finite: Whether every logit was finite; the other counts mean nothing if not.
        usage: What was chosen meanwhile, if anything was.
    """

    correct: int
    loss_sum: float
    samples: int
    wall_s: float
    finite: bool
    usage: Usage | None = None

    @property
    def accuracy(self) -> float:
        """Share of correct images; NaN without images."""
        return self.correct / self.samples if self.samples else math.nan

    @property
    def loss(self) -> float:
        """Mean cross-entropy; NaN without images."""
        return self.loss_sum / self.samples if self.samples else math.nan


@torch.inference_mode()
def evaluate(
    model: nn.Module, images: ImageSet, batch_size: int, limit: int | None = None
) -> Counts:
    """Return the counts of a network in evaluation mode.

    Args:
        model: Classifier; its mode is restored.
        images: What to classify.
        batch_size: Images per forward pass.
        limit: Take only the first so many images.
    """
    training = model.training
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    (counts,) = _count(lambda x: [model(x)], 1, images.batches(batch_size, limit), device)
    model.train(training)
    return counts


def evaluate_each(
    engine: Engine,
    allocations: Sequence[BitAllocation | None],
    images: ImageSet,
    batch_size: int,
    limit: int | None = None,
) -> list[Counts]:
    """Return the counts of several allocations, from one pass over the images.

    What the allocations have in common from the first layer on is computed once, and the wall time
    of the pass is shared equally. The other counts are those of each allocation alone.

    Args:
        engine: Runs the network.
        allocations: The widths of each; None for float.
        images: What to classify.
        batch_size: Images per forward pass.
        limit: Take only the first so many images.

    Raises:
        NonFiniteError: If a layer is given values that are not finite.
    """
    run = engine.prepare(allocations)
    batches = images.batches(batch_size, limit)
    return _count(run, len(allocations), batches, torch.device("cpu"))


def _count(
    run: Callable[[Tensor], Sequence[Tensor]],
    networks: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
) -> list[Counts]:
    """Count what several networks make of the same images."""
    started = time.perf_counter()
    correct, loss_sums, finite = [0] * networks, [0.0] * networks, [True] * networks
    samples = 0
    for x, labels in batches:
        x, labels = x.to(device), labels.to(device)
        for number, logits in enumerate(run(x)):
            exact = logits.double()
            finite[number] = finite[number] and bool(torch.isfinite(exact).all())
            correct[number] += int((exact.argmax(dim=1) == labels).sum())
            loss_sums[number] += float(cross_entropy(exact, labels, reduction="sum"))
        samples += len(labels)
    wall_s = (time.perf_counter() - started) / networks
    return [
        Counts(*counts)
        for counts in zip(
            correct, loss_sums, [samples] * networks, [wall_s] * networks, finite, strict=True
        )
    ]


@torch.inference_mode()
def first_nonfinite(model: nn.Module, x: Tensor) -> str | None:
    """Return the name of the first module, in call order, whose output is not finite.

    Args:
        model: Any network.
        x: A batch of its inputs.

    Returns:
        The innermost such module's name, for a `QuantizedModel` the name in the original network;
        None if every module's output is finite.
    """
    network = model.network if isinstance(model, QuantizedModel) else model
    wrapped = {layer.inner for layer in network.modules() if isinstance(layer, QuantizedLayer)}
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(module: nn.Module, args: object, output: object) -> None:
            tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
            if not found and not all(bool(torch.isfinite(t).all()) for t in tensors):
                found.append(name)

        return module.register_forward_hook(look)

    handles = [
        watch(name, module) for name, module in network.named_modules() if module not in wrapped
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
