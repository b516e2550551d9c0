"""Batch norms estimated again under an allocation.

A batch norm brings every channel to the mean and the spread that the layers behind it were trained
for. The statistics it does that by are those of the float network, and coarse weights and
activations change them. Estimating them again takes a few hundred images, no labels and no
gradients; NNCF's search does so for each of its candidates, and averaged weights need it likewise
(Izmailov et al., arXiv:1803.05407, section 3.2).

Here batch norms are folded. What one would do with new statistics is an affine map of each channel
of its layer's output, which the scales and the bias of the layer take up: see `Correction`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...spaces import BitAllocation, ModelError
from ..correction import Correction
from ..engine import Engine
from ..images import ImageSet
from ..quantized import QuantizedModel
from ..quantized_layers import QuantizedWeightLayer

LARGEST_FACTOR = 10.0
"""A channel that would have to be spread by more keeps its spread: it is nearly constant, and only
noise would grow."""


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Statistics of a layer's output over some images.

    Attributes:
        mean: ``[channels]``.
        variance: ``[channels]``.
        images: How many.
    """

    mean: Tensor
    variance: Tensor
    images: int


_Spreads = dict[QuantizedWeightLayer, list[Spread]]
"""By layer and batch."""

_Correct = Callable[[QuantizedWeightLayer, Spread, int], Correction | None]
"""From a layer, the statistics of its output and the number of the batch."""


class BatchNorms:
    """Estimates the folded batch norms of a network again, for one allocation after another.

    Args:
        model: Calibrated.
        images: Calibration images.
        batch_size: Images per forward pass.

    Raises:
        ModelError: If no batch norm was folded.
    """

    def __init__(self, model: QuantizedModel, images: ImageSet, batch_size: int) -> None:
        self._model, self._images, self._batch_size = model, images, batch_size
        self._layers = normalized_layers(model)
        if not self._layers:
            raise ModelError(
                "batch norms cannot be estimated again: the network has none behind a convolution "
                "or linear layer; choose another adaptation"
            )
        with _at(model, None):
            self._targets = self._watched(lambda layer, spread, batch: None)

    @property
    def targets(self) -> Mapping[QuantizedWeightLayer, Spread]:
        """The statistics of each layer's output in the float network."""
        return {layer: pooled(parts) for layer, parts in self._targets.items()}

    @contextmanager
    def corrected(self, allocation: BitAllocation, engine: Engine | None = None) -> Iterator[None]:
        """Bring the outputs of layers back to the mean and spread they have in the float network.

        It takes one pass: the statistics of each layer are those with the layers before it
        corrected. Of several batches each is corrected by its own statistics on the way; what then
        is in force, at any widths, follows from those of all.

        Args:
            allocation: The widths to estimate at.
            engine: Of the model; without one the reference computes.
        """
        with _at(self._model, allocation) if engine is None else engine.kernels(allocation):
            found = self._watched(self._toward_target)
        targets = self.targets
        try:
            for layer in self._layers:
                layer.correction = _correction(pooled(found[layer]), targets[layer])
            yield
        finally:
            for layer in self._layers:
                layer.correction = None

    def _toward_target(self, layer: QuantizedWeightLayer, spread: Spread, batch: int) -> Correction:
        return _correction(spread, self._targets[layer][batch])

    @torch.no_grad()
    def _watched(self, correct: _Correct) -> _Spreads:
        """Run the network over all images, and return the statistics of every batch."""
        spreads: _Spreads = defaultdict(list)

        def look(layer: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
            assert isinstance(layer, QuantizedWeightLayer)
            spreads[layer].append(spread := _spread(out))
            correction = correct(layer, spread, len(spreads[layer]) - 1)
            if correction is not None:
                correction.apply_(out, layer.left.channel_axis)

        device = next(self._model.parameters()).device
        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(layer.register_forward_hook(look).remove)
            for x, _ in self._images.batches(self._batch_size):
                self._model(x.to(device))
        return spreads


def normalized_layers(model: QuantizedModel) -> list[QuantizedWeightLayer]:
    """Return the layers into which a batch norm was folded, in the order of their calls."""
    layers = [model.quantized_layers[name] for name in model.normalized]
    return [layer for layer in layers if isinstance(layer, QuantizedWeightLayer)]


def pooled(parts: Sequence[Spread]) -> Spread:
    """Return the statistics of several batches together."""
    images = sum(part.images for part in parts)
    shares = torch.tensor([part.images / images for part in parts]).to(parts[0].mean)[:, None]
    means = torch.stack([part.mean for part in parts])
    variances = torch.stack([part.variance for part in parts])
    mean = (shares * means).sum(0)
    return Spread(mean, (shares * (variances + (means - mean).square())).sum(0), images)


@contextmanager
def _at(model: QuantizedModel, allocation: BitAllocation | None) -> Iterator[None]:
    before = model.allocation
    model.set_allocation(allocation)
    try:
        yield
    finally:
        model.set_allocation(before)


def _spread(out: Tensor) -> Spread:
    """Return the statistics of ``images x channels x ...``, as a batch norm takes them."""
    # The kernel of batch norm itself; `var_mean` takes ten times as long.
    mean, variance = torch.batch_norm_update_stats(out, None, None, 0.0)
    return Spread(mean, variance, len(out))


def _correction(found: Spread, target: Spread) -> Correction:
    """Return what gives a layer's output the statistics it shall have."""
    factor = (target.variance / found.variance).sqrt()
    is_alive = (factor > 0) & (factor <= LARGEST_FACTOR)  # also not where nothing was spread
    factor = torch.where(is_alive, factor, 1.0)
    return Correction(factor, target.mean - factor * found.mean)
