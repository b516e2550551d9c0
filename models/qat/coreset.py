"""Which training images an epoch uses: adaptive coreset selection (ACS).

Xijie Huang, Zechun Liu, Shih-Yang Liu, Kwang-Ting Cheng, "Efficient and Robust Quantization-aware
Training via Adaptive Coreset Selection", TMLR 2024 (arXiv:2306.07215). With ``q`` the softmax of
the quantized network, ``p`` that of the full-precision one and ``y`` the label as a unit vector, an
image scores at the share ``t`` of the training

    weight * |q - y|  +  (1 - weight) * |q - p|,    weight = cos(pi t / 2)

in Euclidean norms. The first is the error vector score, large where there is much to learn; the
second the disagreement score, large where quantization is what is wrong. Every few epochs all
images are scored, and those with the highest scores are kept until the next time.

The paper's own code differs: its weight is (1 + cos(pi t)) / 2, and it keeps equal shares of every
class. Here the formula is the paper's, and classes are not balanced.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...spaces import ModelError

Indices = npt.NDArray[np.int64]


def scores(
    logits_quantized: Tensor, logits_full: Tensor, labels: Tensor, progress: float
) -> Tensor:
    """Return how much is to be learned from each of ``n`` images.

    Args:
        logits_quantized: Of the network that is trained, ``n x classes``.
        logits_full: Of the full-precision network, ``n x classes``.
        labels: Classes by number, ``n``.
        progress: Share of the training that is done, 0 to 1.

    Returns:
        Scores of at least 0 and at most the root of 2, in float32 or better, without gradient.

    Raises:
        ModelError: If shapes do not fit, a label is no class, a logit is not finite or `progress`
            is not in [0, 1].

    Examples:
        >>> quantized, full = torch.tensor([[0.0, 0.0]]), torch.tensor([[50.0, -50.0]])
        >>> for progress in (0.0, 1.0):  # the label is class 1, which the full one misses
        ...     print(round(scores(quantized, full, torch.tensor([1]), progress).item(), 4))
        0.7071
        0.7071
    """
    if not 0 <= progress <= 1:
        raise ModelError(f"the progress of a training is a share in [0, 1], got {progress!r}")
    if logits_quantized.dim() != 2 or logits_quantized.shape != logits_full.shape:
        raise ModelError(
            f"the scores of a coreset need the logits of both networks for the same images and "
            f"classes, got {tuple(logits_quantized.shape)} and {tuple(logits_full.shape)}"
        )
    images, classes = logits_quantized.shape
    if labels.shape != (images,) or labels.is_floating_point():
        raise ModelError(
            f"the scores of a coreset need a label, a whole number, for each of {images} images, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if images and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ModelError(
            f"labels must be classes from 0 to {classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    softmax = []
    for whose, logits in (("quantized", logits_quantized), ("full-precision", logits_full)):
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"the {whose} network's logits for a training image are not finite: no coreset can "
                f"be selected by them"
            )
        wide = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
        softmax.append(wide.softmax(dim=1))
    quantized, full = softmax
    expected = torch.nn.functional.one_hot(labels.long(), classes)
    error = torch.linalg.vector_norm(quantized - expected, dim=1)
    disagreement = torch.linalg.vector_norm(quantized - full, dim=1)
    weight = math.cos(math.pi * progress / 2)
    blended: Tensor = weight * error + (1 - weight) * disagreement
    return blended


def select(scores: Tensor, fraction: float, *, at_least: int = 1) -> Indices:
    """Return which images have the highest scores; of equal ones, the first.

    Args:
        scores: One for each image.
        fraction: Share of the images to keep, in (0, 1].
        at_least: The fewest to keep, such as a batch; all of them if there are no more.

    Returns:
        Indices, sorted.

    Raises:
        ModelError: If there are no images, a score is not finite or `fraction` is out of range.

    Examples:
        >>> select(torch.tensor([0.5, 0.1, 0.9, 0.5]), 0.5)
        array([0, 2])
    """
    _check_fraction(fraction)
    if scores.dim() != 1 or len(scores) == 0:
        raise ModelError(f"a coreset needs a score for each image, got {tuple(scores.shape)}")
    values = scores.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise ModelError("a coreset is selected by finite scores, got one that is not")
    count = min(max(round(fraction * len(values)), at_least), len(values))
    kept: Indices = np.sort(np.argsort(-values, kind="stable")[:count]).astype(np.int64)
    return kept


class Coreset:
    """The images that epochs of a training use, and what was spent and saved by it.

    Args:
        images: How many training images there are.
        fraction: Share of them that an epoch uses, in (0, 1]; with 1 nothing is ever scored.
        every: Epochs from one selection to the next.
        at_least: The fewest that an epoch uses, such as a batch.

    Attributes:
        indices: Those in use, sorted; all of them before the first selection.
        images_scored: Images scored so far, each with a forward pass of the network that is trained
            and one of the full-precision network.
        images_left_out: Images that epochs have not used so far, summed over epochs.

    Raises:
        ModelError: If a value is out of range.

    Examples:
        >>> coreset = Coreset(4, fraction=0.5, every=2)
        >>> for epoch in range(3):
        ...     if coreset.due(epoch):
        ...         coreset.choose(torch.arange(4.0), epoch)
        ...     coreset.count_epoch()
        >>> coreset.indices, coreset.images_scored, coreset.images_left_out
        (array([2, 3]), 8, 6)
    """

    def __init__(self, images: int, *, fraction: float, every: int = 1, at_least: int = 1) -> None:
        _check_fraction(fraction)
        for name, value in (("images", images), ("every", every), ("at_least", at_least)):
            if value < 1:
                raise ModelError(f"{name} of a coreset must be at least 1, got {value}")
        self.images = images
        self.fraction = fraction
        self.every = every
        self.at_least = at_least
        self.indices: Indices = np.arange(images, dtype=np.int64)
        self.images_scored = 0
        self.images_left_out = 0
        self._selected: int | None = None

    @property
    def size(self) -> int:
        """How many images an epoch uses once they are selected."""
        return min(max(round(self.fraction * self.images), self.at_least), self.images)

    @property
    def keeps_all(self) -> bool:
        """Whether every epoch uses every image, so that nothing need be scored."""
        return self.size == self.images

    def due(self, epoch: int) -> bool:
        """Return whether to select anew before an epoch; the first epoch is 0."""
        if self.keeps_all:
            return False
        return self._selected is None or epoch - self._selected >= self.every

    def choose(self, scores: Tensor, epoch: int) -> None:
        """Use the images with the highest scores from an epoch on.

        Args:
            scores: One for each of all images, in their order.
            epoch: The epoch that comes next.

        Raises:
            ModelError: If there is not a finite score for each image.
        """
        if scores.shape != (self.images,):
            raise ModelError(
                f"a coreset of {self.images} images needs a score for each, got scores of shape "
                f"{tuple(scores.shape)}"
            )
        self.indices = select(scores, self.fraction, at_least=self.at_least)
        self.images_scored += self.images
        self._selected = epoch

    def count_epoch(self) -> None:
        """Count an epoch on the images in use."""
        self.images_left_out += self.images - len(self.indices)

    def state(self) -> dict[str, Any]:
        """Return an array and plain values, from which `restore` goes on."""
        return {
            "indices": self.indices.copy(),
            "selected": self._selected,
            "images_scored": self.images_scored,
            "images_left_out": self.images_left_out,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where another coreset of the same images and settings was.

        Raises:
            ModelError: If the state is not one of these images.
        """
        try:
            indices = np.array(state["indices"], dtype=np.int64)
            selected = None if state["selected"] is None else int(state["selected"])
            scored, left_out = int(state["images_scored"]), int(state["images_left_out"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"these values are no state of a coreset: {error!r}") from error
        inside = indices.ndim == 1 and len(indices) > 0 and bool((np.diff(indices) > 0).all())
        if not inside or indices[0] < 0 or indices[-1] >= self.images:
            raise ModelError(
                f"these values are no state of a coreset of {self.images} images: their indices "
                f"are not some of them, sorted"
            )
        self.indices, self._selected = indices, selected
        self.images_scored, self.images_left_out = scored, left_out


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ModelError(f"the fraction of a coreset must lie in (0, 1], got {fraction!r}")
