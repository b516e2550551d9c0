"""Mixtures of widths as a trainer needs them: what to compute with, and what it costs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import BitAllocation
from .ranges import Mixture
from .widths import SoftmaxWidths


class LearnedSoftmax(nn.Module):
    """The distributions over widths of EdMIPS, and their expected energy relative to a divisor.

    Args:
        widths: The distributions.
        costs: ``L x 33 x 33`` costs of a layer by weight and activation width.
        divisor: What they are relative to: the cost of uniform 8 bit.
    """

    _costs: Tensor

    def __init__(
        self, widths: SoftmaxWidths, costs: npt.NDArray[np.float64], divisor: float
    ) -> None:
        super().__init__()
        self.widths = widths
        self.register_buffer("_costs", torch.tensor(costs), persistent=False)
        self._divisor = divisor

    def operands(self) -> tuple[Sequence[Mixture], Sequence[Mixture]]:
        """Return the mixtures to compute with, of the weights and of the inputs by layer.

        What an operand is computed with is the sum of what each of its choices gives, weighted with
        the probability of that choice; all of them quantize the same tensor.
        """
        space = self.widths.space
        weights, activations = self.widths.probabilities()
        layers = range(len(space.layers))
        return (
            [_mixture(space.weight_choices(layer), weights[layer]) for layer in layers],
            [_mixture(space.activation_choices(layer), activations[layer]) for layer in layers],
        )

    def energy(self) -> Tensor:
        """Return the expected energy."""
        return self.widths.energy(self._costs, self._divisor)

    def observe(self, beta: float) -> None:
        """Take no note: probabilities say what each width is worth."""

    def losses(self) -> None:
        """Return None: nothing is measured besides."""

    def rounded(self) -> BitAllocation:
        """Return the most probable allocation of the space."""
        return self.widths.rounded()


def _mixture(choices: Sequence[int], probabilities: Tensor) -> Mixture:
    return Mixture(tuple(choices), probabilities[list(choices)])
