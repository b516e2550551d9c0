"""EQAT: bit-widths that are learned in training, with energy in the loss.

[KS25] Karkehabadi, Sasan. Energy-Efficient Quantization-Aware Training with Dynamic Bit-Width
Optimization. GLSVLSI 2025 (doi:10.1145/3716368.3735291).
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ..spaces import BitAllocation, BitSpace, SpaceError, StudyError
from .problem import Problem
from .registry import register
from .rounding import nearest, within
from .width_learning import WidthLearner

if TYPE_CHECKING:
    from .width_learning import Learned

Forward = Literal["rounded", "fractional"]
RoundingBy = Literal["measured", "implied"]


@register("eqat")
@dataclass(frozen=True, kw_only=True)
class Eqat(WidthLearner):
    """Learns the widths of all operands by gradient descent while it trains the network [KS25].

    Every operand has a real width q between its narrowest and its widest choice, a sigmoid of what
    is learned. The loss is cross-entropy + alpha KL(quantized || full precision) + beta energy, the
    energy by the study's table and relative to uniform 8 bit. Its gradient to q is exact, that of
    the other terms passes through the step sizes of the quantizers.

    With a limit on the energy, beta is steered so that the learned energy meets it. Without one it
    is the setting. After ``epochs - fine_tune_epochs`` the widths are rounded, so that all limits
    are met, and stay for the rest.

    Attributes:
        initial_bits: Width that all begin with.
        min_bits: Smallest width; the smallest choice of the space if None.
        max_bits: Largest width; the largest choice of the space if None.
        forward: Whether the network computes with ``rounded`` widths, as it is deployed, or with
            ``fractional`` ones.
        rounding: What widths within limits are chosen by in the end: what the learned widths have
            ``implied`` a bit to be worth, or what the gradients of all steps have ``measured``.
    """

    summary: ClassVar[str] = "Learns widths in training, with the energy in the loss."
    paper: ClassVar[str] = "Karkehabadi and Sasan, EQAT, GLSVLSI 2025"

    initial_bits: float = 7.5
    min_bits: int | None = None
    max_bits: int | None = None
    forward: Forward = "rounded"
    rounding: RoundingBy = "implied"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.initial_bits <= 8:
            raise StudyError(f"initial_bits must be from 2 to 8, got {self.initial_bits}")
        low, high = self.min_bits, self.max_bits
        if low is not None and high is not None and low > high:
            raise StudyError(f"min_bits must not be above max_bits, got {low} and {high}")

    def check(self, space: BitSpace) -> None:
        """Check that the space has widths from `min_bits` to `max_bits`.

        Raises:
            SpaceError: If an operand has none.
        """
        super().check(space)
        self.narrowed(space)

    def narrowed(self, space: BitSpace) -> BitSpace:
        """Return the part of a space with widths from `min_bits` to `max_bits`; pins stay.

        Raises:
            SpaceError: If an operand has none.
        """
        variables = []
        for variable in space.variables:
            choices = tuple(
                bits
                for bits in variable.choices
                if len(variable.choices) == 1
                or (self.min_bits or 0) <= bits <= (self.max_bits or math.inf)
            )
            if not choices:
                raise SpaceError(
                    f"{variable.slots[0].show(space.layers)} may be "
                    f"{', '.join(map(str, variable.choices))} bits, and none of these is between "
                    f"min_bits ({self.min_bits}) and max_bits ({self.max_bits})"
                )
            variables.append(replace(variable, choices=choices))
        return BitSpace(space.layers, variables, space.forbid, space.granularity)

    def learned(self, problem: Problem) -> "Learned":
        """Return real widths, all at the one they begin with."""
        from ..models.qat.learned import LearnedSigmoid
        from ..models.qat.widths import SigmoidWidths

        return LearnedSigmoid(
            SigmoidWidths(self.narrowed(problem.space), self.initial_bits),
            problem.energy.price_torch,
            problem.energy.w8a8,
            fractional=self.forward == "fractional",
        )

    def rounded(self, problem: Problem, learned: "Learned") -> BitAllocation:
        """Return the allocation that the learned widths come to, within the limits."""
        space, widths = self.narrowed(problem.space), learned.widths.bits()
        limits = problem.budget.limits
        if not limits:
            return nearest(space, *widths)
        scores = None
        if self.rounding == "measured":
            scores = learned.losses()  # None before there was a step
        if scores is not None and "energy" not in limits:
            scores = scores + self.beta * problem.layer_costs("energy")
        rounding = within(space, problem.pricing, limits, *widths, scores=scores)
        problem.findings["solver"] = [rounding.solution.to_dict()]
        return rounding.allocation
