"""Selectors fitted to one plan, and networks of theirs that are measured at wanted energies."""

import math
from typing import TYPE_CHECKING

from ..models.dynamic.network import DynamicNetwork
from ..models.dynamic.settings import FitSettings
from ..spaces import Measurement
from .learnprec_plan import Plan, usage_of
from .pricing import is_within
from .problem import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.dynamic.fit import FitReport
    from ..models.dynamic.offsets import Offsets
    from ..models.quantized import QuantizedModel

MARGIN = 0.002
"""Share of a limit on the energy that is left: the mean over other images is another one."""

MOST_TRIES = 3
"""How often a network is measured that is to be within limits."""

_HALVINGS = 12
_EDGE = 0.1
"""Share of the energies at either end that selectors are not fitted for, if not asked to."""


class Fitted:
    """Selectors of one plan.

    Args:
        settings: How they are fitted.
        problem: What it is for.
        plan: What there is to choose.
        model: The calibrated network; is set to the widest member and stays there.
        images: Calibration images.
        labels: Their labels.
        seed: Of all that is random.
    """

    def __init__(
        self,
        settings: FitSettings,
        problem: Problem,
        plan: Plan,
        model: "QuantizedModel",
        images: "Tensor",
        labels: "Tensor",
        seed: int,
    ) -> None:
        from ..models.dynamic.fit import Fitter

        self._settings, self._problem, self._plan = settings, problem, plan
        self._model, self._images = model, images
        model.set_allocation(plan.dynamic.widest)
        self._fitter = Fitter(model, plan.operands, plan.prices, images, labels, settings, seed)
        self._offsets: Offsets | None = None

    def fit(self, span: tuple[float, float] | None = None) -> None:
        """Fit the selectors.

        Args:
            span: Energies they are fitted for; all that they can come to if None.
        """
        fitter = self._fitter
        try:
            fitter.begin()
            betas = self._betas(span) if self._settings.epochs else (1.0, 1.0)
            for _ in range(self._settings.epochs):
                self._log(fitter.run_epoch(betas))
        finally:
            self._problem.charge(fitter.images_forward, fitter.images_backward)
        self._offsets = None

    def ends(self) -> tuple[float, float]:
        """Return the energies of the narrowest choices, and of the widest within the limits."""
        offsets = self._deployed()
        low, high = offsets.ends()
        if self._allows(math.inf):
            return low, high
        within = low
        for _ in range(_HALVINGS):
            middle = (within + high) / 2
            if self._allows(offsets.nearest(middle)):
                within = middle
            else:
                high = middle
        return low, within

    def measure(self, energy: float) -> Measurement:
        """Measure a network that costs so much on average; less, if it is not within the limits.

        Args:
            energy: Relative to uniform 8 bit.
        """
        problem, limit = self._problem, self._problem.budget.limits.get("energy", math.inf)
        wanted = min(energy, limit * (1 - MARGIN))
        measured = problem.evaluate_dynamic(self._network(wanted))
        for _ in range(MOST_TRIES - 1):
            if problem.within(measured) or not problem.remaining:
                break
            over = measured.energy_vs_w8a8 / limit - 1
            wanted *= 1 - MARGIN - (over if over > 0 else 0.0)
            measured = problem.evaluate_dynamic(self._network(wanted))
        return measured

    def _network(self, energy: float) -> DynamicNetwork:
        offsets = self._deployed()
        before = offsets.images_forward
        offset = offsets.offset_for(energy)
        self._problem.charge(offsets.images_forward - before)
        return DynamicNetwork(self._plan.dynamic, self._fitter.arrays(offset), self._settings.per)

    def _deployed(self) -> "Offsets":
        """Return the selectors as they are now, in whole numbers."""
        import torch

        from ..models.dynamic.integer_selector import IntegerSelector
        from ..models.dynamic.offsets import Offsets

        if self._offsets is None:
            selectors = {
                slot: IntegerSelector(arrays) for slot, arrays in self._fitter.arrays(0.0).items()
            }
            batches = torch.split(self._images, self._settings.batch_size)
            gates, prices = self._fitter.gates, self._plan.prices
            self._offsets = Offsets(self._model, gates, selectors, prices, batches)
            self._offsets.ends()
            self._problem.charge(self._offsets.images_forward)
        return self._offsets

    def _allows(self, offset: float) -> bool:
        """Return whether what an offset leads to is within the limits."""
        problem, offsets = self._problem, self._deployed()
        shares = {slot: s.mean(0).numpy() for slot, s in offsets.shares(offset).items()}
        usage = usage_of(problem.energy, self._plan.dynamic, shares, len(self._images))
        limits = problem.budget.limits
        return all(is_within(problem.pricing.price_of_usage(usage, n), limits[n]) for n in limits)

    def _betas(self, span: tuple[float, float] | None) -> tuple[float, float]:
        """Return between which factors of the energy those lie that lead to some energies."""
        if self._settings.beta is not None:
            return self._settings.beta, self._settings.beta
        offsets = self._deployed()
        low, high = offsets.ends()
        edge = _EDGE * (high - low)
        first, last = span or (low, high)
        found = sorted(
            math.exp(-offsets.nearest(min(max(end, low + edge), high - edge)))
            for end in (first, last)
        )
        self._offsets = None
        return found[0], found[-1]

    def _log(self, report: "FitReport") -> None:
        widest = self._plan.dynamic.widest
        widths = {
            operand: list(bits)
            for operand, bits in (("weight", widest.weights), ("activation", widest.activations))
        }
        for (layer, operand), mean in report.mean_widths.items():
            widths[operand][widest.layers.index(layer)] = mean  # type: ignore[call-overload]
        self._problem.log(
            "epoch",
            widest,
            weight_bits=widths["weight"],
            activation_bits=widths["activation"],
            learned_energy=report.energy,
            cross_entropy=report.cross_entropy,
            distance=report.distance,
            training_accuracy=report.accuracy,
        )
