"""EdMIPS: distributions over bit-widths that are learned in training, with a cost in the loss.

[CV20] Cai, Vasconcelos. Rethinking Differentiable Search for Mixed-Precision Neural Networks.
CVPR 2020 (arXiv:2004.05795).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..spaces import BitAllocation
from .problem import Problem
from .registry import register
from .rounding import within
from .width_learning import WidthLearner

if TYPE_CHECKING:
    from .width_learning import Learned


@register("edmips")
@dataclass(frozen=True, kw_only=True)
class EdMips(WidthLearner):
    """Learns how probable each width of every operand is while it trains the network [CV20].

    Every operand has a distribution over its choices, a softmax of what is learned, and is computed
    with as the mean over them: the sum of what each choice makes of one shared tensor, weighted by
    its probability. The loss is that of EQAT with the expected energy, by the study's table and
    relative to uniform 8 bit.

    With a limit on the energy, beta is steered so that the expected energy meets it. Without one it
    is the setting. After ``epochs - fine_tune_epochs`` every operand gets one width for the rest:
    the most probable one, or with limits the allocation that loses least within them by what the
    expected widths imply.
    """

    summary: ClassVar[str] = "Learns a distribution over the widths of every operand in training."
    paper: ClassVar[str] = "Cai and Vasconcelos, EdMIPS, CVPR 2020 (arXiv:2004.05795)"

    def learned(self, problem: Problem) -> "Learned":
        """Return distributions in which all choices are as probable."""
        from ..models.qat.mixtures import LearnedSoftmax
        from ..models.qat.widths import SoftmaxWidths

        energy = problem.energy
        return LearnedSoftmax(SoftmaxWidths(problem.space), energy.layer_costs, energy.w8a8)

    def rounded(self, problem: Problem, learned: "Learned") -> BitAllocation:
        """Return what the distributions come to, within the limits."""
        limits = problem.budget.limits
        if not limits:
            return learned.rounded()
        rounding = within(problem.space, problem.pricing, limits, *learned.widths.bits())
        problem.findings["solver"] = [rounding.solution.to_dict()]
        return rounding.allocation
