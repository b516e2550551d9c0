"""Scores of a layer's own output, from one float pass: no other layer is looked at.

With everything else in float a layer's input does not depend on its own widths. So each layer
computes its output also with one operand quantized, from the input it has in the float pass. With
``Y`` the float output over all images and ``Yq`` that of the quantized operand:

- ``output-l2``: ``||Y - Yq||_2``. Percentile-sensitivity PTQ.
- ``mse``: ``sum (Y - Yq)^2 / sum Y^2``. The normalised squared error of Sony's Model Compression
  Toolkit (Habi et al., arXiv:2007.10319), which takes it at the network's interest points.
- ``cosine``: ``1 - cos(Y, Yq)`` of each image, averaged over the images; the other distance of the
  same toolkit, which halves it.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..quantized import QuantizedModel
from .images import LabelledImages
from .probes import Found, Place, Probe, Probes, on_output

LayerKind = Literal["output-l2", "mse", "cosine"]


def layer_scores(
    model: QuantizedModel, images: LabelledImages, probes: Probes, kind: LayerKind
) -> Found:
    """Score every probe by its layer's output. One image forward each.

    Args:
        model: In float and in evaluation mode.
        images: What is passed; labels are not used.
        probes: What is scored.
        kind: Which score.
    """
    noise: dict[Place, float] = defaultdict(float)
    angle: dict[Place, float] = defaultdict(float)
    signal: dict[int, float] = defaultdict(float)
    rows: dict[int, int] = defaultdict(int)

    def compare(own: Sequence[Probe], inputs: tuple[Tensor, ...], full: Tensor) -> None:
        row, full = own[0].place[0], full.flatten(1)
        power = _sums(full, full)
        signal[row] += float(power.sum())
        rows[row] += len(full)
        for probe in own:
            change = probe.output(inputs).flatten(1) - full
            squares = _sums(change, change)
            noise[probe.place] += float(squares.sum())
            if kind == "cosine":
                angle[probe.place] += float(_angles(power, _sums(full, change), squares).sum())

    with torch.inference_mode(), on_output(probes, compare):
        for x, _ in images:
            model(x)
    if kind == "output-l2":
        scores = {place: value**0.5 for place, value in noise.items()}
    elif kind == "mse":
        scores = {place: _share(value, signal[place[0]]) for place, value in noise.items()}
    else:
        scores = {place: value / rows[place[0]] for place, value in angle.items()}
    return Found(scores, images_forward=images.count)


def _sums(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum of products of each row, in float64."""
    return (left * right).sum(dim=1, dtype=torch.float64)


def _angles(power: Tensor, product: Tensor, squares: Tensor) -> Tensor:
    """Return ``1 - cos(y, y + d)`` by row from ``y.y``, ``y.d`` and ``d.d``.

    With a and b the norms of y and y + d it is ``(d.d - (b - a)^2) / (2 a b)``, in which nothing
    of the size of the signal cancels: at 8 bits the result is a millionth of it.
    """
    a = power.sqrt()
    b = (power + 2 * product + squares).clamp_min(0).sqrt()
    total = a + b
    difference = torch.where(total > 0, (2 * product + squares) / total, 0.0)
    value = (squares - difference**2).clamp_min(0) / (2 * a * b)
    # The angle to nothing: none if both are, a right one if one is.
    return torch.where(a * b != 0, value, torch.where(squares == 0, 0.0, 1.0))


def _share(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return noise / signal if signal else float("inf")
