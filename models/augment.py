"""Random changes of training images that leave their class as it is."""

import torch
from torch import Tensor
from torch.nn.functional import pad


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
