"""Selectors fitted to one plan of a network that stays as it is."""

import math
from typing import TYPE_CHECKING

from ..models.dynamic.network import DynamicNetwork
from ..models.dynamic.settings import FitSettings
from ..spaces import BitAllocation
from .learnprec_curve import Curve
from .learnprec_plan import Place, Plan
from .problem import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ..models.dynamic.fit import FitReport, Fitter
    from ..models.dynamic.gates import TrainableGate
    from ..models.dynamic.offsets import Offsets
    from ..models.quantized import QuantizedModel

_EDGE = 0.1
"""Share of the energies at either end that selectors are not fitted for."""


class Calibrated:
    """A calibrated network, and the images that selectors are fitted to.

    Args:
        model: The network; its allocation is changed.
        images: Calibration images.
        labels: Their labels.
    """

    def __init__(self, model: "QuantizedModel", images: "Tensor", labels: "Tensor") -> None:
        self.model, self.images, self.labels = model, images, labels

    def fitter(self, settings: FitSettings, plan: Plan, seed: int) -> "Fitter":
        """Return what fits the selectors of a plan.

        Args:
            settings: How.
            plan: What there is to choose.
            seed: Of all that is random.
        """
        from ..models.dynamic.fit import Fitter

        self.model.set_allocation(plan.dynamic.widest)
        return Fitter(
            self.model, plan.operands, plan.prices, self.images, self.labels, settings, seed
        )

    @classmethod
    def of(
        cls, model: "QuantizedModel", batches: "Sequence[tuple[Tensor, Tensor]]"
    ) -> "Calibrated":
        """Return a network with the images of some batches."""
        import torch

        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return cls(model, images, labels)

    def offsets(
        self, gates: "Mapping[Place, TrainableGate]", plan: Plan, batch_size: int
    ) -> "Offsets":
        """Return what finds offsets for selectors as they are now, in whole numbers.

        Args:
            gates: Have the selectors.
            plan: What there is to choose.
            batch_size: Images per pass.
        """
        import torch

        from ..models.dynamic.offsets import Offsets

        selectors = {slot: gate.selectors.deployed() for slot, gate in gates.items()}
        batches = torch.split(self.images, batch_size)
        return Offsets(self.model, gates, selectors, plan.prices, batches)


def fitted(
    problem: Problem,
    settings: FitSettings,
    plan: Plan,
    network: Calibrated,
    seed: int,
    span: tuple[float, float] | None = None,
) -> Curve:
    """Fit selectors.

    Args:
        problem: Is charged, and has the log.
        settings: How.
        plan: What there is to choose.
        network: What they are fitted to; is set to the widest member and stays there.
        seed: Of all that is random.
        span: Energies they are fitted for; all that they can come to if None.
    """
    fitter = network.fitter(settings, plan, seed)
    try:
        fitter.begin()
        if settings.epochs:
            betas = _betas(
                problem, settings, network.offsets(fitter.gates, plan, settings.batch_size), span
            )
        for _ in range(settings.epochs):
            log(problem, plan, fitter.run_epoch(betas))
    finally:
        problem.charge(fitter.images_forward, fitter.images_backward)

    def at(offset: float) -> DynamicNetwork:
        return DynamicNetwork(plan.dynamic, fitter.arrays(offset), settings.per)

    return Curve(problem, plan, network.offsets(fitter.gates, plan, settings.batch_size), at)


def log(problem: Problem, plan: Plan, report: "FitReport") -> None:
    """Log an epoch."""
    weights, activations = mean_widths(plan.dynamic.widest, report.mean_widths)
    problem.log(
        "epoch",
        plan.dynamic.widest,
        weight_bits=weights,
        activation_bits=activations,
        learned_energy=report.energy,
        cross_entropy=report.cross_entropy,
        distance=report.distance,
        training_accuracy=report.accuracy,
    )


def mean_widths(
    widest: BitAllocation, chosen: "Mapping[Place, float]"
) -> tuple[list[float], list[float]]:
    """Return mean widths of weights and activations by layer, where some are chosen."""
    weights, activations = (
        [
            chosen.get((name, operand), float(bits))  # type: ignore[arg-type]
            for name, bits in zip(widest.layers, all_bits, strict=True)
        ]
        for operand, all_bits in (("weight", widest.weights), ("activation", widest.activations))
    )
    return weights, activations


def _betas(
    problem: Problem, settings: FitSettings, offsets: "Offsets", span: tuple[float, float] | None
) -> tuple[float, float]:
    """Return between which factors of the energy those lie that lead to some energies."""
    if settings.beta is not None:
        return settings.beta, settings.beta
    low, high = offsets.ends()
    edge = _EDGE * (high - low)
    first, last = (min(max(end, low + edge), high - edge) for end in span or (low, high))
    found = math.exp(-offsets.nearest(last)), math.exp(-offsets.nearest(first))
    problem.charge(offsets.images_forward)
    return found
