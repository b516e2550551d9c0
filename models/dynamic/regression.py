"""What selectors begin with: a regression of what a step to more bits is worth.

A step from a width to the next takes away some of the distance of the logits and costs some energy;
what it is *worth* is the one over the other. The score less the threshold of the step estimates the
logarithm of that. So a step is taken where it is worth more than the factor that the energy has in
a loss, whose logarithm is what scores are compared with: one selector serves for all factors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .losses import Losses
from .selectors import Selectors

_RATE = 0.03
_IMAGES = 64
_FLOOR = 1e-4
"""Share of what the steps of an operand are worth on average, below which nothing is told apart."""


def worth(losses: Losses, costs: Sequence[float]) -> Tensor:
    """Return what each step to more bits is worth, ``n x decisions x steps``.

    Args:
        losses: Of an operand.
        costs: What each step costs if all of the channels take it.
    """
    channels = losses.lost.shape[1]
    lost = losses.lost.double()
    # The widest loses something, too: as much less as its step is finer than the one before it.
    rest = torch.cat([lost[..., 1:].mean((0, 1)), lost.new_zeros(1)])
    gained = lost * (1 - rest / lost.mean((0, 1)).clamp_min(1e-30)).clamp_min(_FLOOR)
    prices = torch.tensor(costs, dtype=torch.float64) / channels
    return (gained / prices.clamp_min(1e-12)).float()


def regress(
    selectors: Selectors,
    losses: Losses,
    costs: Sequence[float],
    *,
    steps: int,
    generator: torch.Generator,
) -> None:
    """Fit scores to the logarithms of what steps are worth.

    What a step is worth in an input is known from a few random directions only: the square of a
    normal variable, or little better. With its mean ``exp(score - threshold)``, the likelihood of
    an exponential distribution, ``score - threshold + worth / exp(score - threshold)``, is smallest
    where that mean is right, whatever the distribution.

    Args:
        selectors: Are changed.
        losses: Of their operand.
        costs: What each step to more bits costs if all channels take it.
        steps: Steps of the optimizer, each on some of the images.
        generator: Draws these.
    """
    target = worth(losses, costs)
    mean = target.mean().clamp_min(1e-30)
    target = target + _FLOOR * mean
    with torch.no_grad():
        selectors.standardize(losses.statistics, by_channel=len(selectors.score_weight) > 1)
        selectors.score_weight.mul_(0.1)
        selectors.score_bias.copy_(target[..., 0].mean(0).log())
        falls = target.mean((0, 1)).log().diff().neg().clamp_min(0.1)
        selectors.gaps.copy_(falls.expm1().log())
    optimizer = torch.optim.Adam(selectors.parameters(), lr=_RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        some = torch.randint(len(target), (min(len(target), _IMAGES),), generator=generator)
        estimate = selectors(losses.statistics[some]).unsqueeze(-1) - selectors.thresholds
        loss = (estimate + target[some] * (-estimate.clamp_min(-40.0)).exp()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
