"""Networks of one fit along their curve of energies: which are within the limits, and measuring."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..models.dynamic.network import DynamicNetwork
from ..spaces import Measurement
from .learnprec_plan import Plan, usage_of
from .pricing import is_within
from .problem import Problem
from .spread import farthest_first

if TYPE_CHECKING:
    from ..models.dynamic.offsets import Offsets

MARGIN = 0.002
"""Share of a limit on the energy that is left: the mean over other images is another one."""

MOST_TRIES = 3
"""How often a network is measured that is to be within limits."""

_HALVINGS = 12


class Curve:
    """What the selectors of one fit come to, as all of their scores are moved.

    Args:
        problem: Measures.
        plan: What there is to choose.
        offsets: Finds offsets by calibration images.
        network: Makes the network of an offset.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        offsets: "Offsets",
        network: Callable[[float], DynamicNetwork],
    ) -> None:
        self._problem, self._plan = problem, plan
        self._offsets, self._network = offsets, network
        self._charged = 0

    def measure_spread(self, points: int) -> None:
        """Measure networks that span the energies within the limits, those at their ends first.

        Args:
            points: How many at most.
        """
        low, high = self._ends()
        is_limited = not self._allows(math.inf)
        # The widest choices for all inputs are none: what comes of them is a static allocation.
        targets = np.linspace(low, high, points + 2 - is_limited)[1:][:points][::-1]
        for index in farthest_first(targets.tolist()):
            if self._problem.remaining:
                self.measure(float(targets[index]))

    def measure(self, energy: float) -> Measurement:
        """Measure a network that costs so much on average; less, if it is not within the limits.

        Args:
            energy: Relative to uniform 8 bit.
        """
        problem, limit = self._problem, self._problem.budget.limits.get("energy", math.inf)
        wanted = min(energy, limit * (1 - MARGIN))
        measured = problem.evaluate_dynamic(self.at(wanted))
        for _ in range(MOST_TRIES - 1):
            if problem.within(measured) or not problem.remaining:
                break
            over = measured.energy_vs_w8a8 / limit - 1
            wanted *= 1 - MARGIN - (over if over > 0 else 0.0)
            measured = problem.evaluate_dynamic(self.at(wanted))
        return measured

    def at(self, energy: float) -> DynamicNetwork:
        """Return the network that costs so much on average over the calibration images."""
        offset = self._offsets.offset_for(energy)
        self._charge()
        return self._network(offset)

    def _ends(self) -> tuple[float, float]:
        """Return the energies of the narrowest choices, and of the widest within the limits."""
        low, high = self._offsets.ends()
        self._charge()
        if self._allows(math.inf):
            return low, high
        within = low
        for _ in range(_HALVINGS):
            middle = (within + high) / 2
            if self._allows(self._offsets.nearest(middle)):
                within = middle
            else:
                high = middle
        return low, within

    def _allows(self, offset: float) -> bool:
        """Return whether what an offset leads to is within the limits."""
        problem = self._problem
        shares = {slot: s.mean(0).numpy() for slot, s in self._offsets.shares(offset).items()}
        usage = usage_of(problem.energy, self._plan.dynamic, shares, 1)
        limits = problem.budget.limits
        return all(is_within(problem.pricing.price_of_usage(usage, n), limits[n]) for n in limits)

    def _charge(self) -> None:
        """Charge the images that were passed since the last time."""
        self._problem.charge(self._offsets.images_forward - self._charged)
        self._charged = self._offsets.images_forward
