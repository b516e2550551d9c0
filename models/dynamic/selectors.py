"""Selectors in training: from statistics of a channel to one of several widths.

    standardized statistics --Linear, ReLU--> hidden --Linear + bias of the channel--> score
    choice = number of thresholds below the score

The thresholds rise, the first one is 0. So a choice is a sum of gates, each of which is open only
if the one before it is: ``choice = [score > 0] + [score > t_2] + ...``. A gate has no derivative
where there is one; in its place stands that of the score (Bengio, Leonard, Courville,
arXiv:1308.3432), or that of a sigmoid of it.
"""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces import ModelError
from ...spaces.dynamic import STATISTICS
from .integer_selector import (
    LARGEST_BIAS,
    LARGEST_FEATURE,
    LARGEST_HIDDEN,
    LOWEST_FEATURE,
    IntegerSelector,
    apply_by_channel,
)

__all__ = ["Estimator", "IntegerSelector", "Selectors"]

Estimator = Literal["identity", "sigmoid"]
"""What a gate's derivative with respect to its score is taken to be."""

_FEATURE_STEPS = 32.0
"""Whole numbers to one standard deviation of a statistic: a byte reaches 4 of them either way."""

_LARGEST_WEIGHT = 127
_TINY = 1e-12


class Selectors(nn.Module):
    """What decides the widths of all channels of one operand, with gradients.

    Args:
        channels: Decisions about one input.
        choices: Widths there are to choose from.
        hidden: Hidden units.
        shared: Whether all channels have one network, and a bias each; if not, each has its own.
        generator: Randomness of the first weights.

    Attributes:
        centre: What statistics are centred by: of all channels together, or by channel.
        spread: What they are then divided by.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        channels: int,
        choices: int,
        hidden: int = 8,
        *,
        shared: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if channels < 1 or choices < 1 or hidden < 1:
            raise ModelError(
                f"a selector needs channels, choices and hidden units, got {channels}, {choices} "
                f"and {hidden}"
            )
        networks = 1 if shared else channels

        def drawn(*shape: int) -> nn.Parameter:
            scale = shape[-1] ** -0.5
            return nn.Parameter(torch.randn(shape, generator=generator) * scale)

        self.hidden_weight = drawn(networks, hidden, STATISTICS)
        self.hidden_bias = nn.Parameter(torch.zeros(networks, hidden))
        self.score_weight = drawn(networks, hidden)
        self.score_bias = nn.Parameter(torch.zeros(channels))
        self.gaps = nn.Parameter(torch.zeros(max(choices - 2, 0)))
        self.choices = choices
        self.register_buffer("centre", torch.zeros(1, STATISTICS))
        self.register_buffer("spread", torch.ones(1, STATISTICS))

    @property
    def channels(self) -> int:
        """Decisions about one input."""
        return len(self.score_bias)

    @property
    def thresholds(self) -> Tensor:
        """What scores are compared with, rising from 0; one fewer than choices."""
        rises = F.softplus(self.gaps).cumsum(0)
        return torch.cat([rises.new_zeros(min(self.choices - 1, 1)), rises])

    @torch.no_grad()
    def standardize(self, statistics: Tensor, *, by_channel: bool = False) -> None:
        """Take mean and spread of the statistics of some inputs as those to standardize with.

        Args:
            statistics: ``n x channels x 4``.
            by_channel: Whether each channel has its own.
        """
        axes = 0 if by_channel else (0, 1)
        mean = statistics.double().mean(axes)
        spread = (statistics.double() - mean).square().mean(axes).sqrt()
        # A statistic that never changes tells nothing, and must not become large where it does.
        spread = torch.where(spread > 1e-3 * mean.abs() + 1e-6, spread, mean.abs() + 1)
        self.centre = mean.view(-1, STATISTICS).to(self.centre)
        self.spread = spread.view(-1, STATISTICS).to(self.spread)

    def forward(self, statistics: Tensor) -> Tensor:
        """Return the scores, ``n x channels``.

        Args:
            statistics: ``n x channels x 4``.
        """
        low, high = LOWEST_FEATURE / _FEATURE_STEPS, LARGEST_FEATURE / _FEATURE_STEPS
        features = ((statistics - self.centre) / self.spread).clamp(low, high)
        hidden = (apply_by_channel(features, self.hidden_weight) + self.hidden_bias).relu()
        scores: Tensor = apply_by_channel(hidden, self.score_weight.unsqueeze(1)).squeeze(-1)
        return scores + self.score_bias

    def gates(
        self, scores: Tensor, estimator: Estimator = "identity", temperature: float = 1.0
    ) -> Tensor:
        """Return gates that are 0 or 1, with the gradients of an estimator.

        Args:
            scores: ``n x channels``.
            estimator: What has a derivative in their place: the score less the threshold, or a
                sigmoid of that over the temperature.
            temperature: The lower, the steeper the sigmoid.

        Returns:
            ``n x channels x (choices - 1)``; a choice is their sum.

        Raises:
            ModelError: If there is no such estimator.
        """
        if estimator not in get_args(Estimator):
            raise ModelError(f"an estimator is 'identity' or 'sigmoid', got {estimator!r}")
        soft = scores.unsqueeze(-1) - self.thresholds
        hard = (soft > 0).to(soft.dtype).detach()
        if estimator == "sigmoid":
            soft = torch.sigmoid(soft / temperature)
        return hard + (soft - soft.detach())

    @torch.no_grad()
    def choose(self, statistics: Tensor) -> Tensor:
        """Return places among the widths, ``n x channels``, int64.

        Args:
            statistics: ``n x channels x 4``.
        """
        scores: Tensor = self(statistics)
        return (scores.unsqueeze(-1) > self.thresholds).sum(-1)

    def deployed(self, offset: float = 0.0) -> IntegerSelector:
        """Return the selector in whole numbers.

        Args:
            offset: See `IntegerSelector.moved`.
        """
        return IntegerSelector(self.arrays(offset))

    @torch.no_grad()
    def arrays(self, offset: float = 0.0) -> dict[str, npt.NDArray[Any]]:
        """Return the parts of the selector in whole numbers; see `IntegerSelector`.

        Each hidden unit has a scale of its own, so that the largest value it can take is 255; what
        its weights in the score then are is rounded to 8 bits of the largest.

        Args:
            offset: Added to all scores.
        """
        names = ("hidden_weight", "hidden_bias", "score_weight", "score_bias")
        w1, b1, w2, b2 = (_array(getattr(self, name)) for name in names)
        spread = _array(self.spread)
        reach = -LOWEST_FEATURE / _FEATURE_STEPS
        step1 = _step(w1, LARGEST_BIAS, np.abs(b1) * _FEATURE_STEPS)
        largest = np.maximum(np.abs(w1).sum(-1) * reach + b1, _TINY)
        w2 = w2 * largest / LARGEST_HIDDEN
        thresholds = _array(self.thresholds)[None]
        by_network = b2[:, None] if len(w2) > 1 else b2[None]
        ends = np.concatenate(
            [np.abs(by_network).max(-1, keepdims=True), np.tile(thresholds, (len(w2), 1))], axis=1
        )
        step2 = _step(w2, LARGEST_BIAS, ends.max(-1))
        return {
            "feature_scale": (_FEATURE_STEPS / spread).astype(np.float32),
            "feature_shift": (-_array(self.centre) * _FEATURE_STEPS / spread).astype(np.float32),
            "hidden_weight": np.rint(w1 / step1[..., None]).astype(np.int8),
            "hidden_bias": np.rint(b1 * _FEATURE_STEPS / step1).astype(np.int32),
            "hidden_scale": (step1 / _FEATURE_STEPS * LARGEST_HIDDEN / largest).astype(np.float32),
            "score_weight": np.rint(w2 / step2[:, None]).astype(np.int8),
            "score_bias": np.rint(b2 / step2).astype(np.int32),
            "thresholds": np.rint(thresholds / step2[:, None]).astype(np.int32),
            "score_step": step2.astype(np.float32),
            "offset": np.array([offset], dtype=np.float32),
        }


def _array(tensor: Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _step(
    weights: npt.NDArray[np.float64], largest_bias: int, biases: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return steps with which weights fit into a byte and biases below a bound; by last axis."""
    step: npt.NDArray[np.float64] = np.maximum(
        np.abs(weights).max(-1) / _LARGEST_WEIGHT, biases / largest_bias
    )
    return np.maximum(step, _TINY)
