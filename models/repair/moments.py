"""First and second moments of the inputs of layers, which decide what an error of weights costs.

A layer multiplies its weights, one row for each output channel, by vectors: those of the features
of a linear layer, or the patches of an image under the kernel of a convolution. If a row changes by
``d``, the output of its channel changes by ``d x``: its mean square over all vectors is
``d E[x x'] d'``, and its mean is ``d E[x]``. So these two are all that has to be known of images.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces import FLOAT_BITS
from ..plain_layers import pad_same, plain_kind
from ..quantized_layers import QuantizedLayer

_LEAST_VECTORS = 2**15
_VECTORS_PER_ENTRY = 16
"""Vectors that second moments are taken of: so many for each entry of a vector, or the least; all
if there are fewer. Neighbouring patches are so alike that more of them change next to nothing."""

_CHUNK = 2**22  # elements of patches that are laid out at a time
_LIMIT_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of the vectors that a layer multiplies its weights by, for each of its groups.

    Attributes:
        mean: ``groups x entries``.
        covariance: ``groups x entries x entries``: second moments about the mean.
    """

    mean: Tensor
    covariance: Tensor

    @property
    def second(self) -> Tensor:
        """Second moments about zero, in the shape of the covariance."""
        return torch.baddbmm(self.covariance, self.mean[:, :, None], self.mean[:, None, :])


class CalibrationImages(Sequence[Tensor]):
    """Batches of images; copies share them.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = tuple(batches)

    def __deepcopy__(self, memo: dict[int, Any]) -> "CalibrationImages":
        return self

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return self._batches[index]


class MomentSource:
    """Finds the moments of layers' inputs in the float network when they are needed.

    A pass over the images serves the layer that is asked for and as many of those behind it as the
    memory holds; the others wait for a pass of their own.

    Args:
        network: Made of quantized layers.
        layers: Its layers with weights, by name, in network order.
        images: Calibration images as the network takes them.
        limit_bytes: Most memory for second moments, but for those of a single layer.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, QuantizedLayer],
        images: CalibrationImages,
        limit_bytes: int = _LIMIT_BYTES,
    ) -> None:
        self._network = network
        self._layers = dict(layers)
        self._images = images
        self._limit_bytes = limit_bytes
        self._kept: dict[str, Moments] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    def of(self, name: str) -> Moments:
        """Return the moments of a layer's input.

        Args:
            name: One of the layers, of `plain_kind`.
        """
        if name not in self._kept:
            self._kept = self._pass(self._fitting(name))
        return self._kept[name]

    def _fitting(self, first: str) -> list[str]:
        names = list(self._layers)
        fitting, size = [first], self._nbytes(first)
        for name in names[names.index(first) + 1 :]:
            size += self._nbytes(name)
            if size > self._limit_bytes:
                break
            if plain_kind(self._layers[name].inner) is not None:
                fitting.append(name)
        return fitting

    def _nbytes(self, name: str) -> int:
        weight = self._layers[name].inner.get_parameter("weight")
        groups = getattr(self._layers[name].inner, "groups", 1)
        return groups * weight[0].numel() ** 2 * weight.element_size()

    def _pass(self, names: Sequence[str]) -> dict[str, Moments]:
        count = sum(map(len, self._images))
        sums = {name: _Sums(self._layers[name].inner, count) for name in names}
        with in_float(self._network), ExitStack() as stack:
            for name in names:
                tap = partial(_tapped, self._layers[name], sums[name])
                stack.enter_context(_computing(self._layers[name], tap))
            device = next(self._network.parameters()).device
            for x in self._images:
                self._network(x.to(device))
        return {name: found.moments() for name, found in sums.items()}


@contextmanager
def in_float(network: nn.Module) -> Iterator[None]:
    """Let a network of quantized layers compute in float and in evaluation mode, unobserved."""
    layers = [module for module in network.modules() if isinstance(module, QuantizedLayer)]
    before = [(x.weight_bits, x.activation_bits, x.observing, x.kernel) for x in layers]
    training = [module for module in network.modules() if module.training]
    network.eval()
    for layer in layers:
        layer.weight_bits = layer.activation_bits = FLOAT_BITS
        layer.observing, layer.kernel = False, None
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.weight_bits, layer.activation_bits, layer.observing, layer.kernel = kept
        for module in training:
            module.training = True


@contextmanager
def _computing(layer: QuantizedLayer, kernel: Any) -> Iterator[None]:
    layer.kernel = kernel
    try:
        yield
    finally:
        layer.kernel = None


def _tapped(layer: QuantizedLayer, sums: "_Sums", x: Tensor) -> Tensor:
    sums.add(x)
    return layer.compute((x,), FLOAT_BITS, FLOAT_BITS)


class _Sums:
    """Sums over the vectors of one layer's inputs.

    Args:
        module: The layer.
        images: How many are to come.
    """

    def __init__(self, module: nn.Module, images: int) -> None:
        weight = module.get_parameter("weight")
        self._module = module
        self._groups = getattr(module, "groups", 1)
        self._entries = weight[0].numel()
        self._images = images
        self._products = weight.new_zeros(self._groups, self._entries, self._entries)
        self._sum = weight.new_zeros(self._groups, self._entries, dtype=torch.float64)
        self._count = 0
        self._inputs: dict[torch.Size, Tensor] = {}
        self._rows: Counter[torch.Size] = Counter()
        self._draws = torch.Generator().manual_seed(0)

    def add(self, x: Tensor) -> None:
        """Take an input of the layer into account."""
        kept = self._inputs.setdefault(x.shape[1:], torch.zeros_like(x[0], dtype=torch.float64))
        kept += x.sum(0, dtype=torch.float64)
        # Not one for each image: windows of attention share this axis, layers may be called twice.
        self._rows[x.shape[1:]] += len(x)
        places = _place_count(x, self._module)
        wanted = max(_LEAST_VECTORS, _VECTORS_PER_ENTRY * self._entries)
        taken = min(places, -(-wanted // self._images))
        size = taken * self._groups * self._entries
        for chunk in torch.split(x, max(1, _CHUNK // size)):
            drawn = (
                torch.randperm(places, generator=self._draws)[:taken] if taken < places else None
            )
            vectors = self._by_group(_vectors(chunk, self._module, drawn))
            self._products.baddbmm_(vectors.transpose(1, 2), vectors)
            self._sum += vectors.sum(1, dtype=torch.float64)
            self._count += vectors.shape[1]

    def moments(self) -> Moments:
        """Return the moments of what was added."""
        some = self._sum / self._count
        covariance = self._products.div_(self._count)
        covariance.baddbmm_(*(part.to(covariance) for part in (-some[:, :, None], some[:, None])))
        # The mean over all vectors is that of the patches of the mean image.
        total, count = torch.zeros_like(self._sum), 0
        for shape, x in self._inputs.items():
            vectors = self._by_group(_vectors(x[None], self._module))
            total += vectors.sum(1)
            count += vectors.shape[1] * self._rows[shape]
        return Moments((total / count).to(covariance), covariance)

    def _by_group(self, vectors: Tensor) -> Tensor:
        """Return ``groups x vectors x entries``."""
        return vectors.view(len(vectors), self._groups, -1).transpose(0, 1)


def _place_count(x: Tensor, module: nn.Module) -> int:
    """Return how many vectors each image has."""
    if not isinstance(module, nn.Conv2d):
        return x[0].numel() // x.shape[-1]
    return int(_patches(x[:1], module).shape[2:4].numel())


def _vectors(x: Tensor, module: nn.Module, drawn: Tensor | None = None) -> Tensor:
    """Return ``vectors x (groups * entries)``.

    Args:
        x: The layer's input.
        module: The layer.
        drawn: Which of every image's vectors; all if None.
    """
    if not isinstance(module, nn.Conv2d):
        vectors = x.reshape(len(x), -1, x.shape[-1])
        return (vectors if drawn is None else vectors[:, drawn]).flatten(0, 1)
    patches = _patches(x, module)
    if drawn is None:
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    columns = patches.shape[3]
    return patches[:, :, drawn // columns, drawn % columns].transpose(1, 2).flatten(0, 1).flatten(1)


def _patches(x: Tensor, module: nn.Conv2d) -> Tensor:
    """Return ``images x channels x rows x columns x kernel height x kernel width``, uncopied."""
    if plain_kind(module) == "same conv":
        x = pad_same(x, module)
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    sides = zip(x.shape[2:], module.kernel_size, module.dilation, module.stride, strict=True)
    places = [(size - d * (k - 1) - 1) // stride + 1 for size, k, d, stride in sides]
    (rows, columns), (down, right) = module.stride, module.dilation
    image, channel, row, column = x.stride()
    return x.as_strided(
        (*x.shape[:2], *places, *module.kernel_size),
        (image, channel, rows * row, columns * column, down * row, right * column),
    )
