"""Images as they come to a deployed network: in some order, with a shift in the middle."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..models.images import ImageSet
from ..models.runtime.guardrail import GuardSettings
from ..spaces import StudyError
from .serve_settings import ServeSettings

_SET_UP = 1000
"""Most images that are set aside for the set-up, if nobody says how many."""

_SHORTEST_WINDOW = 16
"""Checked inputs below which a window is not shortened: fewer show the largest drops only."""


@dataclass(frozen=True)
class Stream:
    """Images to set up with, and images to serve.

    Attributes:
        set_up: Not served.
        images: To serve, one time after the other.
        inputs: How many in all.
        noise: Standard deviation, of the range of a pixel.
        first: The first input with noise.
        end: The first one without again.
        rng: Draws the noise.
    """

    set_up: ImageSet
    images: ImageSet
    inputs: int
    noise: float
    first: int
    end: int
    rng: np.random.Generator

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels; the noise does not depend on the size of batches."""
        std = torch.tensor(self.images.std).view(-1, 1, 1)
        for start in range(0, self.inputs, batch_size):
            numbers = np.arange(start, min(start + batch_size, self.inputs))
            x, labels = self.images.batch(numbers % len(self.images))
            noisy = (numbers >= self.first) & (numbers < self.end) & (self.noise > 0)
            if noisy.any():
                drawn = self.rng.standard_normal((int(noisy.sum()), *x.shape[1:]), dtype=np.float32)
                x[torch.from_numpy(noisy)] += self.noise / std * torch.from_numpy(drawn)
            yield x, labels


def stream_of(images: ImageSet, settings: ServeSettings) -> Stream:
    """Return images in an order drawn with the seed, some of them set aside.

    Args:
        images: What there is.
        settings: What is to be served.

    Raises:
        StudyError: If none would be set aside, or none left.
    """
    order_rng, noise_rng = np.random.default_rng(settings.seed).spawn(2)
    order = order_rng.permutation(len(images))
    set_up = min(_SET_UP, len(images) // 4) if settings.set_up is None else settings.set_up
    if not 0 < set_up < len(images):
        raise StudyError(
            f"{set_up} images are to be set aside of a test split of {len(images)}; some must be, "
            f"and some must be left to serve"
        )
    served = images.subset(order[set_up:])
    inputs = len(served) * settings.repeat
    inputs = inputs if settings.limit is None else min(inputs, settings.limit)
    return Stream(
        images.subset(order[:set_up]),
        served,
        inputs,
        settings.noise,
        settings.noise_from,
        inputs if settings.noise_to is None else settings.noise_to,
        noise_rng,
    )


def fitted_guard(stream: Stream, guard: GuardSettings) -> GuardSettings:
    """Return a guardrail whose window a stream fills, if it is not too short for any.

    The window is shortened as far as that is sensible; only then inputs are checked more often,
    which costs energy.

    Args:
        stream: What is to be served.
        guard: What is watched, for a stream that is long enough.
    """
    if stream.inputs >= _needed(guard):
        return guard
    shortest = min(guard.window, _SHORTEST_WINDOW)
    every = guard.check_every
    if "agreement" in guard.signals:
        every = min(every, max(1, stream.inputs // shortest))
    checked = stream.inputs // (every if "agreement" in guard.signals else 1)
    window = min(guard.window, max(shortest, checked))
    return replace(guard, window=window, check_every=every)


def check_stream(stream: Stream, settings: ServeSettings) -> None:
    """Check that a stream is long enough for what is to be shown.

    Args:
        stream: What is to be served.
        settings: What it was made of.

    Raises:
        StudyError: If it ends before the noise begins or ends, or a window is full, or labels are
            missing.
    """
    guard = settings.guard
    for name, number in (("begins", settings.noise_from), ("ends", settings.noise_to)):
        if settings.noise and number is not None and number >= stream.inputs:
            raise StudyError(
                f"the stream ends after {stream.inputs} inputs, before the noise {name} at "
                f"{number}; serve more with --repeat or --limit, or let it come earlier"
            )
    needed = _needed(guard)
    if stream.inputs < needed:
        raise StudyError(
            f"the stream ends after {stream.inputs} inputs, before a window of {guard.window} "
            f"checked ones is full at {needed}; serve more with --repeat or --limit, or lower "
            f"--window or --check-every"
        )
    if "accuracy" in guard.signals:
        for images in (stream.set_up, stream.images):
            if missing := int((images.labels < 0).sum()):
                raise StudyError(
                    f"--guard accuracy needs labels, and {missing} of {len(images)} images have "
                    f"none; watch agreement or confidence"
                )


def _needed(guard: GuardSettings) -> int:
    """Return after how many inputs a window is full."""
    return guard.window * (guard.check_every if "agreement" in guard.signals else 1)
