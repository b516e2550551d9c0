"""Widths that are learned by gradient descent, one for every free operand of a layer-wise space.

`SigmoidWidths` learns a real width (Karkehabadi and Sasan, GLSVLSI 2025, equations 13 and 14),
`SoftmaxWidths` a distribution over the choices (Cai and Vasconcelos, EdMIPS, arXiv:2004.05795).
Tied operands share what is learned, pinned ones are constants.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import KNOWN_WIDTHS, BitAllocation, BitSpace, EnergyTableError, SpaceError
from ...spaces.rounding import nearest_allocation, preferred_allocation
from ...spaces.slots import OPERANDS, Slot

Price = Callable[[Tensor, Tensor], Tensor]
"""Prices real widths of weights and of activations, one each per layer, differentiably."""

WIDEST_LEARNED = 8
"""What is wider has no codes that a gradient to the width could mean anything for."""

_LEAST_SHARE = 0.05
"""How far from the ends of its range, as a share of it, a width starts: a sigmoid learns slowly
where it is saturated."""

_WIDER = 1e-9
"""Preference per bit between choices that are equally probable."""


class Widths(nn.Module, ABC):
    """The widths of all operands of a network while they are learned.

    What `freeze` does is not part of the state dict: whoever restores one freezes again.

    Args:
        space: A layer-wise space.

    Attributes:
        space: The space.
        learned: Its variables that have a choice, in its order; one row of parameters each.
        frozen: The widths, once they are constant; None while they are learned.

    Raises:
        SpaceError: If the space is per channel, or a width to be learned may be above 8 bits.
    """

    _pins: Tensor
    _rows: Tensor

    def __init__(self, space: BitSpace) -> None:
        super().__init__()
        if space.granularity != "layer":
            raise SpaceError(
                "widths are learned per layer: expected a space of granularity 'layer', got "
                f"'{space.granularity}'"
            )
        self.space = space
        self.frozen: BitAllocation | None = None
        self.learned = tuple(v for v in space.variables if len(v.choices) > 1)
        for variable in self.learned:
            if variable.choices[-1] > WIDEST_LEARNED:
                raise SpaceError(
                    f"learned widths are at most {WIDEST_LEARNED} bits: "
                    f"{variable.slots[0].show(space.layers)} may be "
                    f"{', '.join(map(str, variable.choices))} bits; leave the wider ones out, or "
                    f"pin the operand"
                )
        row = {v: index for index, v in enumerate(self.learned)}
        of_slot = {slot: v for v in space.variables for slot in v.slots}
        pins: list[list[float]] = []
        rows: list[list[int]] = []
        for operand in OPERANDS:
            mine = [of_slot[Slot(layer, operand)] for layer in range(len(space.layers))]
            pins.append([float(v.choices[0]) for v in mine])
            rows.append([row.get(v, -1) for v in mine])
        self._constant("_pins", torch.tensor(pins))
        self._constant("_rows", torch.tensor(rows))

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the real widths of weights and of activations, one per layer, differentiable."""

    @abstractmethod
    def rounded(self) -> BitAllocation:
        """Return the allocation the widths stand for; pins, ties and forbidden pairs hold."""

    def freeze(self, allocation: BitAllocation) -> None:
        """Make the widths constant from now on.

        Args:
            allocation: A member of the space.

        Raises:
            SpaceError: If it is not.
        """
        self.space.validate(allocation)
        self.frozen = allocation
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def bits(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the real widths of weights and of activations as arrays, one per layer."""
        with torch.no_grad():
            weight, activation = (bits.double().cpu().numpy() for bits in self())
        return weight, activation

    def _constant(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def _by_operand(self, learned: Tensor) -> tuple[Tensor, Tensor]:
        """Return the widths per layer of given ones per learned variable."""
        if len(learned) == 0:
            return self._pins[0], self._pins[1]
        bits = torch.where(self._rows < 0, self._pins, learned[self._rows.clamp(min=0)])
        return bits[0], bits[1]

    def _constants(self, allocation: BitAllocation) -> tuple[Tensor, Tensor]:
        weight, activation = (
            self._pins.new_tensor(bits) for bits in (allocation.weights, allocation.activations)
        )
        return weight, activation


class SigmoidWidths(Widths):
    """Real widths between the narrowest and the widest choice: ``low + (high - low) s(theta)``.

    Args:
        space: A layer-wise space.
        initial_bits: What every width starts from, or as near to it as 5 % of its range from
            either end.

    Attributes:
        theta: The parameter, one per learned variable.
    """

    _low: Tensor
    _span: Tensor
    _choices: Tensor

    def __init__(self, space: BitSpace, initial_bits: float = 7.5) -> None:
        super().__init__(space)
        if not math.isfinite(initial_bits):
            raise SpaceError(f"initial_bits must be a number of bits, got {initial_bits}")
        low = torch.tensor([float(v.choices[0]) for v in self.learned])
        span = torch.tensor([float(v.choices[-1] - v.choices[0]) for v in self.learned])
        share = ((initial_bits - low) / span).clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)
        self._constant("_low", low)
        self._constant("_span", span)
        self._constant("_choices", _descending([v.choices for v in self.learned]))
        self.theta = nn.Parameter(torch.logit(share))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the real widths of weights and of activations, one per layer, differentiable."""
        if self.frozen is not None:
            return self._constants(self.frozen)
        return self._by_operand(self._learned())

    def straight_through(self) -> tuple[Tensor, Tensor]:
        """Return the rounded widths, with the gradients of the real ones."""
        if self.frozen is not None:
            return self._constants(self.frozen)
        if self.space.forbid:
            weight, activation = self()
            whole_weight, whole_activation = self._constants(self.rounded())
            return _passing(weight, whole_weight), _passing(activation, whole_activation)
        learned = self._learned()
        return self._by_operand(_passing(learned, self.nearest(learned.detach())))

    def energy(self, price: Price, divisor: float = 1.0) -> Tensor:
        """Return the price of the real widths, differentiable; computed in float64.

        Args:
            price: Such as `EnergyModel.price_torch`.
            divisor: What prices are relative to, such as that of uniform 8 bit.
        """
        weight, activation = self()
        return (price(weight.double(), activation.double()) / divisor).to(weight.dtype)

    def rounded(self) -> BitAllocation:
        """Return the nearest allocation; pins, ties and forbidden pairs hold."""
        return self.frozen or nearest_allocation(self.space, *self.bits())

    def real_and_slope(self) -> tuple[Tensor, Tensor]:
        """Return the real widths of what is learned, and their derivatives by `theta`."""
        with torch.no_grad():
            share = torch.sigmoid(self.theta)
            return self._low + self._span * share, self._span * share * (1 - share)

    def _learned(self) -> Tensor:
        return self._low + self._span * torch.sigmoid(self.theta)

    def nearest(self, bits: Tensor) -> Tensor:
        """Return the nearest choice of each learned variable, the wider of two as near."""
        if len(bits) == 0:
            return bits
        distance = (self._choices.double() - bits.double()[:, None]).abs()
        return self._choices.gather(1, distance.argmin(dim=1, keepdim=True))[:, 0]


class SoftmaxWidths(Widths):
    """A distribution over the choices of every free operand, all choices as probable at first.

    Args:
        space: A layer-wise space.

    Attributes:
        logits: The parameter, one row per learned variable and one column per width from 0 to 8
            bits; columns of widths that are no choice have no effect.
    """

    _offered: Tensor
    _width: Tensor
    _tied: Tensor

    def __init__(self, space: BitSpace) -> None:
        super().__init__(space)
        offered = torch.zeros(len(self.learned), WIDEST_LEARNED + 1, dtype=torch.bool)
        for row, variable in enumerate(self.learned):
            offered[row, list(variable.choices)] = True
        self._constant("_offered", offered)
        self._constant("_width", torch.arange(KNOWN_WIDTHS[-1] + 1, dtype=torch.float32))
        tied = (self._rows[0] >= 0) & (self._rows[0] == self._rows[1])
        self._constant("_tied", tied)
        self.logits = nn.Parameter(torch.zeros(offered.shape))

    def probabilities(self) -> tuple[Tensor, Tensor]:
        """Return the probability of each width of weights and of activations, ``L x 33``.

        Pinned operands have one width for sure, and so have all once they are frozen.
        """
        if self.frozen is not None:
            return self._certain(*self._constants(self.frozen))
        if not self.learned:
            return self._certain(self._pins[0], self._pins[1])
        learned = nn.functional.softmax(self._masked(), dim=1)
        learned = nn.functional.pad(learned, (0, len(self._width) - learned.shape[1]))
        sure = self._certain(self._pins[0], self._pins[1])
        weight, activation = (
            torch.where(rows[:, None] < 0, pins, learned[rows.clamp(min=0)])
            for rows, pins in zip(self._rows, sure, strict=True)
        )
        return weight, activation

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the expected widths of weights and of activations, per layer, differentiable."""
        weight, activation = self.probabilities()
        return weight @ self._width, activation @ self._width

    def energy(self, costs: npt.NDArray[np.float64] | Tensor, divisor: float = 1.0) -> Tensor:
        """Return the expected price, differentiable; computed in float64.

        The two widths of a layer are independent, unless they are tied: then they are equal.

        Args:
            costs: ``L x 33 x 33`` costs of a layer by weight and activation width, such as
                `EnergyModel.layer_costs`.
            divisor: What prices are relative to, such as that of uniform 8 bit.

        Raises:
            EnergyTableError: If a pair of widths that can occur has no price.
        """
        weight, activation = self.probabilities()
        pairs = weight.double()[:, :, None] * activation.double()[:, None, :]
        together = torch.diag_embed(weight.double())
        pairs = torch.where(self._tied[:, None, None], together, pairs)
        prices = torch.as_tensor(costs, device=pairs.device)
        unknown = (pairs.detach() > 0) & prices.isnan()
        if bool(unknown.any()):
            layer, *bits = unknown.nonzero()[0].tolist()
            raise EnergyTableError(
                f"the energy table cannot price layer {self.space.layers[layer].name!r} with "
                f"weights of {bits[0]} and activations of {bits[1]} bits, which the space offers"
            )
        total = (pairs * prices.nan_to_num()).sum() / divisor
        return total.to(weight.dtype)

    def rounded(self) -> BitAllocation:
        """Return the most probable allocation; pins, ties and forbidden pairs hold."""
        if self.frozen is not None:
            return self.frozen
        with torch.no_grad():
            chances = nn.functional.log_softmax(self._masked().double(), dim=1)
            learned = np.zeros((len(self.learned) + 1, len(self._width)))  # last: of the pins
            learned[:-1, : chances.shape[1]] = -chances.cpu().numpy()
        learned -= _WIDER * np.arange(len(self._width))
        weight, activation = learned[self._rows.cpu().numpy()]
        return preferred_allocation(self.space, weight, activation)

    def _masked(self) -> Tensor:
        return self.logits.masked_fill(~self._offered, -torch.inf)

    def _certain(self, *bits: Tensor) -> tuple[Tensor, Tensor]:
        weight, activation = ((self._width == each[:, None]).to(each.dtype) for each in bits)
        return weight, activation


def _passing(real: Tensor, whole: Tensor) -> Tensor:
    """Return whole values with the gradient of the real ones."""
    return whole + (real - real.detach())


def _descending(choices: Sequence[Sequence[int]]) -> Tensor:
    """Return choices, widest first, as rows of equal length; the narrowest fills the rest."""
    most = max(map(len, choices), default=1)
    rows = [[*sorted(c, reverse=True), *[min(c)] * (most - len(c))] for c in choices]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), most)
