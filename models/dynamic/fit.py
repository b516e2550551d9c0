"""Fitting selectors to a network that stays as it is.

[LP] Nivetha et al. Inference-Time Energy Minimization Through Learnable Numerical Precision In
Activation Computation (LearnPrec).

The loss of a step is ``(CE + alpha D) / beta + E``, with the cross-entropy with the labels, the
distance ``D`` of the logits from those of the float network (`losses`), and the mean energy ``E``
of an input relative to uniform 8 bit. The factor beta of the energy is what the scores are compared
with, in logarithms: so selectors that were fitted for many factors give a whole curve of energies.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...spaces import ModelError
from ...spaces.dynamic import STATISTICS
from ..quantized import QuantizedModel
from .gates import TrainableGate
from .layout import Layout
from .losses import Losses, centred, measured_losses
from .operands import Slot, gated
from .prices import Prices
from .regression import regress
from .selectors import Selectors
from .settings import FitSettings, SelectorSettings


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """An operand whose channels choose.

    Attributes:
        widths: What they choose from, ascending.
        layout: Which values are decided about together.
    """

    widths: tuple[int, ...]
    layout: Layout


@dataclass(frozen=True, slots=True)
class FitReport:
    """How a pass over the images went; means over its images.

    Attributes:
        cross_entropy: With the labels, in nats.
        distance: Of the logits from those of the float network.
        energy: Relative to uniform 8 bit.
        accuracy: Share of the images that were right.
        mean_widths: Mean width of every operand that chooses.
    """

    cross_entropy: float
    distance: float
    energy: float
    accuracy: float
    mean_widths: Mapping[Slot, float]


def trainable_gates(
    operands: Mapping[Slot, Operand], settings: SelectorSettings, generator: torch.Generator
) -> dict[Slot, TrainableGate]:
    """Return a gate with selectors of random weights for every operand that chooses."""
    is_shared = settings.selectors == "shared"
    gates = {}
    for slot, operand in operands.items():
        channels = operand.layout.decisions
        selectors = Selectors(
            channels, len(operand.widths), settings.hidden, shared=is_shared, generator=generator
        )
        # The shapes it will have once it is fitted, so that a state of that can be loaded.
        selectors.standardize(torch.zeros(1, channels, STATISTICS), by_channel=not is_shared)
        gates[slot] = TrainableGate(
            operand.widths,
            operand.layout,
            settings.positions,
            selectors,
            settings.per,
            estimator=settings.estimator,
            temperature=settings.temperature,
        )
    return gates


class Fitter:
    """Fits the selectors of a network.

    Args:
        model: The network at its widest member; its weights get no gradients from now on.
        operands: What chooses.
        prices: What that costs.
        images: Calibration images.
        labels: Their labels.
        settings: How.
        seed: Of first weights, directions, factors and the order of images.

    Attributes:
        gates: The trainable gates.
        images_forward: Images passed forward so far.
        images_backward: Images passed backward.
        epoch: Passes over the images done.
    """

    def __init__(
        self,
        model: QuantizedModel,
        operands: Mapping[Slot, Operand],
        prices: Prices,
        images: Tensor,
        labels: Tensor,
        settings: FitSettings,
        seed: int,
    ) -> None:
        self._model, self._prices, self._settings = model, prices, settings
        self._images, self._labels = images, labels
        self._generator = torch.Generator().manual_seed(seed)
        self.gates = trainable_gates(operands, settings, self._generator)
        self._parameters = [p for g in self.gates.values() for p in g.selectors.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=settings.lr)
        self._batch_size = min(settings.batch_size, len(images))
        self.epoch = self.images_forward = self.images_backward = 0
        model.requires_grad_(False)
        self._target = self._float_logits()

    def begin(self) -> None:
        """Let selectors begin with what steps to more bits are worth, to second order."""
        batches = torch.split(self._images, self._batch_size)
        found: dict[Slot, Losses] = measured_losses(
            self._model, self.gates, batches, self._settings.directions, self._generator
        )
        self.images_forward += len(self._images)
        self.images_backward += self._settings.directions * len(self._images)
        costs = self._prices.steps()
        for slot, gate in self.gates.items():
            regress(
                gate.selectors,
                found[slot],
                costs[slot].tolist(),
                steps=self._settings.regression_steps,
                generator=self._generator,
            )

    def run_epoch(self, betas: tuple[float, float]) -> FitReport:
        """Pass all images forward and backward once, and take a step behind each batch.

        Args:
            betas: Between which the factor of the energy is drawn in every step.

        Raises:
            ModelError: If the loss is not finite.
        """
        settings, sums = self._settings, _Sums()
        order = torch.randperm(len(self._images), generator=self._generator)
        steps = len(order) // self._batch_size
        with gated(self._model, self.gates), torch.enable_grad():
            for step in range(steps):
                chosen = order[step * self._batch_size : (step + 1) * self._batch_size]
                self._schedule((self.epoch + step / steps) / settings.epochs)
                low, high = (math.log(beta) for beta in betas)
                drawn = torch.rand((), generator=self._generator).item()
                self._step(chosen, low + (high - low) * drawn, sums)
        self.epoch += 1
        return sums.report(self.gates)

    def arrays(self, offset: float) -> dict[Slot, dict[str, Any]]:
        """Return the selectors in whole numbers; see `Selectors.arrays`."""
        return {slot: gate.selectors.arrays(offset) for slot, gate in self.gates.items()}

    def _step(self, chosen: Tensor, log_beta: float, sums: "_Sums") -> None:
        x, labels = self._images[chosen], self._labels[chosen]
        with shifted([gate.selectors for gate in self.gates.values()], -log_beta):
            logits = self._model(x)
        entropy = cross_entropy(logits, labels)
        distance = centred(logits - self._target[chosen]).square().sum(1).mean() / 2
        shares = {}
        for slot, gate in self.gates.items():
            assert gate.shares is not None
            shares[slot] = gate.shares
        energy = self._prices.energy(shares).mean()
        loss = (entropy + self._settings.alpha * distance) * math.exp(-log_beta) + energy
        if not torch.isfinite(loss):
            raise ModelError(
                f"fitting diverged: the loss is {loss.item()}; lower lr (now {self._settings.lr})"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        correct = int((logits.argmax(1) == labels).sum())
        sums.add(len(x), entropy.item(), distance.item(), energy.item(), correct, shares)
        self.images_forward += len(x)
        self.images_backward += len(x)

    def _schedule(self, progress: float) -> None:
        settings = self._settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
        fallen = (settings.final_temperature / settings.temperature) ** progress
        for gate in self.gates.values():
            gate.temperature = settings.temperature * fallen

    @torch.no_grad()
    def _float_logits(self) -> Tensor:
        allocation = self._model.allocation
        with gated(self._model, {}):
            self._model.set_allocation(None)
            logits = [self._model(x) for x in torch.split(self._images, self._batch_size)]
            self._model.set_allocation(allocation)
        self.images_forward += len(self._images)
        return torch.cat(logits)


@contextmanager
def shifted(selectors: Sequence[Selectors], offset: float) -> Iterator[None]:
    """Add an offset to the scores of selectors in training."""

    def add(module: nn.Module, statistics: Any, scores: Tensor) -> Tensor:
        return scores + offset

    with ExitStack() as stack:
        for each in selectors:
            stack.callback(each.register_forward_hook(add).remove)
        yield


class _Sums:
    """What a pass adds up."""

    def __init__(self) -> None:
        self._images = 0
        self._totals = torch.zeros(4, dtype=torch.float64)
        self._shares: dict[Slot, Tensor] = {}

    def add(
        self,
        count: int,
        entropy: float,
        distance: float,
        energy: float,
        correct: int,
        shares: Mapping[Slot, Tensor],
    ) -> None:
        """Add a step."""
        self._images += count
        means = torch.tensor([entropy, distance, energy], dtype=torch.float64) * count
        self._totals += torch.cat([means, torch.tensor([float(correct)], dtype=torch.float64)])
        for slot, share in shares.items():
            self._shares[slot] = self._shares.get(slot, 0) + share.detach().double().sum(0)

    def report(self, gates: Mapping[Slot, TrainableGate]) -> FitReport:
        """Return the means."""
        entropy, distance, energy, accuracy = (self._totals / self._images).tolist()
        widths = {
            slot: float(self._shares[slot] @ torch.tensor(gate.widths).double()) / self._images
            for slot, gate in gates.items()
        }
        return FitReport(entropy, distance, energy, accuracy, widths)
