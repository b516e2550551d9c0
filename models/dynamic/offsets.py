"""Moving the scores of all selectors together, so that a network has a given mean energy."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..quantized import QuantizedModel
from .container import Container
from .gates import SelectorGate, StatisticsGate
from .integer_selector import IntegerSelector
from .operands import Slot, gated
from .prices import Prices

_HALVINGS = 40
_ROUNDS = 3
_CLOSE = 5e-4
"""Share by which a mean energy on the calibration images may be off."""


class ProbedGate(SelectorGate):
    """A gate that also says at which offset each of its choices would change.

    Attributes:
        opens: For each batch, the smallest offsets at which each step to more bits is taken,
            ``n x decisions x steps``.
    """

    def __init__(self, gate: StatisticsGate, selector: IntegerSelector) -> None:
        super().__init__(gate.widths, gate.layout, gate.positions, selector, gate.per)
        self.opens: list[Tensor] = []

    def decide(self, x: Tensor, container: Container) -> Tensor:
        """Return the selector's choice."""
        arrays = self.selector.arrays()
        step = torch.from_numpy(arrays["score_step"]).double()
        thresholds = torch.from_numpy(arrays["thresholds"]).double()
        scores = self.selector.scores(self.statistics(x, container).cpu())
        missing = (thresholds - scores.double().unsqueeze(-1)) * step.view(-1, 1)
        opens = missing + self.selector.offset
        self.opens.append(opens.expand(len(x), -1, -1).float())
        chosen = (missing < 0).sum(-1)
        return chosen.to(x.device).expand(len(x), -1)


class Offsets:
    """Finds offsets by what a network chooses on calibration images, in its deployed form.

    Args:
        model: The network at its widest member.
        gates: What was fitted: widths, layouts and statistics.
        selectors: The fitted selectors, in whole numbers.
        prices: What choices cost.
        batches: Images.

    Attributes:
        images_forward: Images passed so far.
    """

    def __init__(
        self,
        model: QuantizedModel,
        gates: Mapping[Slot, StatisticsGate],
        selectors: Mapping[Slot, IntegerSelector],
        prices: Prices,
        batches: Sequence[Tensor],
    ) -> None:
        self._model, self._gates, self._selectors = model, gates, selectors
        self._prices, self._batches = prices, batches
        self.images_forward = 0
        self._opens: dict[Slot, Tensor] = {}

    def ends(self) -> tuple[float, float]:
        """Return the energies of the narrowest and of the widest choices."""
        return self.energy(-math.inf), self.energy(math.inf)

    def offset_for(self, energy: float) -> float:
        """Return an offset that leads to a mean energy, relative to uniform 8 bit.

        What a layer sees follows from what those before it chose, and so do its statistics: an
        offset found on what was seen at another one is tried, and found anew.

        Args:
            energy: What is wanted; the nearest there is where it is out of reach.
        """
        self._opens = self._opens or self._observed(0.0)
        offset = self.nearest(energy)
        for _ in range(_ROUNDS):
            self._opens = self._observed(offset)
            if abs(self.energy(offset) / energy - 1) <= _CLOSE:
                break
            offset = self.nearest(energy)
        return offset

    @torch.no_grad()
    def _observed(self, offset: float) -> dict[Slot, Tensor]:
        """Run the network at an offset; return at which offsets its choices would change."""
        gates = {
            slot: ProbedGate(self._gates[slot], selector.moved(offset))
            for slot, selector in self._selectors.items()
        }
        with gated(self._model, gates):
            for x in self._batches:
                self._model(x)
                self.images_forward += len(x)
        return {slot: torch.cat(gate.opens) for slot, gate in gates.items()}

    def shares(self, offset: float) -> dict[Slot, Tensor]:
        """Return how much of each operand every image has at which width, ``n x widths``.

        As far as it is known without another pass.
        """
        self._opens = self._opens or self._observed(0.0)
        found = {}
        for slot, opens in self._opens.items():
            taken = (opens < offset).double().mean(1)
            ends = taken.new_ones(len(taken), 1), taken.new_zeros(len(taken), 1)
            found[slot] = -torch.cat([ends[0], taken, ends[1]], 1).diff(dim=1)
        return found

    def energy(self, offset: float) -> float:
        """Return the mean energy of an image, as far as it is known without another pass."""
        return self._prices.energy(self.shares(offset)).mean().item()

    def nearest(self, energy: float) -> float:
        """Return the largest offset that, as far as is known, does not lead beyond an energy."""
        self._opens = self._opens or self._observed(0.0)
        low = min(float(opens.min()) for opens in self._opens.values()) - 1.0
        high = max(float(opens.max()) for opens in self._opens.values()) + 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.energy(middle) <= energy:
                low = middle
            else:
                high = middle
        return low
