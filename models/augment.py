"""Training images in random order, with random changes that leave their class as it is."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from .config import Augmentation
from .images import ImageSet


def shuffled_batches(
    images: ImageSet, batch_size: int, augment: Augmentation, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the full batches of one shuffled pass, augmented.

    Args:
        images: What to go through.
        batch_size: Images per batch, at most as many as there are.
        augment: How they are changed.
        generator: Source of randomness.
    """
    order = torch.randperm(len(images), generator=generator).numpy()
    for start in range(0, len(images) - batch_size + 1, batch_size):
        inputs, labels = images.batch(order[start : start + batch_size])
        if augment != "none":
            inputs = random_crop(inputs, max(1, inputs.shape[2] // 8), generator)
        if augment == "crop-flip":
            inputs = random_flip(inputs, generator)
        yield inputs, labels


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to ``padding`` pixels; what comes in from outside is 0, the mean.

    Args:
        images: Normalised images ``[n, channels, height, width]``.
        padding: Largest shift in either direction.
        generator: Source of randomness.
    """
    count, channels, height, width = images.shape
    padded = pad(images, (padding, padding, padding, padding))
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image, by chance, left to right.

    Args:
        images: ``[n, channels, height, width]``.
        generator: Source of randomness.
    """
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
