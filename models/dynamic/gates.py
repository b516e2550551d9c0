"""Gates: what gives the channels of one operand their widths, input by input.

A gate stands in `ActivationQuantizer.gate`, where `operands.gated` puts it; from then on reference
and engine both quantize that operand at the widths that it chooses.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...spaces import ModelError
from ..quantizers import Grid, fake_quantize
from .container import Container, check_widths
from .integer_selector import IntegerSelector
from .layout import Layout, by_decision
from .quantize import gated_quantize
from .selectors import Estimator, Selectors
from .statistics import statistics

Per = Literal["sample", "batch"]
"""Whether each input is decided about alone, or all inputs of a batch together."""


class Gate(ABC):
    """Chooses one of several widths for each channel of an operand, or group of channels.

    Args:
        widths: The widths, ascending, of 2 to 8 bits.
        layout: Which values are decided about together.

    Attributes:
        last: What was chosen for the last batch: places among the widths, ``n x decisions``, uint8;
            None before the first one.

    Raises:
        ModelError: If the widths do not rise, or are not of 2 to 8 bits.
    """

    def __init__(self, widths: Sequence[int], layout: Layout) -> None:
        self.widths = tuple(int(width) for width in widths)
        check_widths(self.widths)
        self.layout = layout
        self.last: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether what it chooses has gradients, where they are on."""
        return False

    def choose(self, x: Tensor, container: Container) -> Tensor:
        """Return what is chosen for a batch, and remember it in `last`.

        Args:
            x: The operand.
            container: Grids of the widths.

        Returns:
            Places among the widths, ``n x decisions``, int64.

        Raises:
            ModelError: If the operand does not have the layout.
        """
        self.layout.check(x)
        chosen = self.decide(x, container)
        self._remember(chosen)
        return chosen

    @abstractmethod
    def decide(self, x: Tensor, container: Container) -> Tensor:
        """Return the choice for an operand of the right layout; see `choose`."""

    def grid(self, x: Tensor, container: Container) -> Grid:
        """Return the grid of what is chosen, shaped to broadcast against the operand."""
        return container.chosen(self.layout.spread(self.choose(x, container), x.dim()))

    def quantized(self, x: Tensor, container: Container) -> Tensor:
        """Return the operand at the widths chosen, with straight-through gradients."""
        return fake_quantize(x, self.grid(x, container))

    def _remember(self, chosen: Tensor) -> None:
        self.last = chosen.detach().to("cpu", torch.uint8)


class ForcedGate(Gate):
    """Chooses what it was told: for tests, and for what a network does without its selectors.

    Args:
        widths: The widths, ascending.
        layout: Which values are decided about together.
        index: Places among the widths: one for all, one per decision, or ``inputs x decisions``
            for inputs in the order in which batches will bring them.

    Raises:
        ModelError: If there are no such places, or they do not fit the layout.
    """

    def __init__(
        self, widths: Sequence[int], layout: Layout, index: int | Sequence[int] | Tensor
    ) -> None:
        super().__init__(widths, layout)
        places = torch.as_tensor(index)
        if places.dim() > 2 or (places.dim() and places.shape[-1] != layout.decisions):
            raise ModelError(
                f"a gate of {layout.decisions} decisions was told choices of shape "
                f"{tuple(places.shape)}"
            )
        if places.is_floating_point() or not bool(
            ((places >= 0) & (places < len(self.widths))).all()
        ):
            raise ModelError(f"choices are places among the {len(self.widths)} widths, from 0 on")
        self._places = places.to(torch.uint8)
        self._position = 0

    def rewind(self) -> None:
        """Go back to the first input, where there is a choice for each."""
        self._position = 0

    def decide(self, x: Tensor, container: Container) -> Tensor:
        """Return the choices for the next inputs.

        Raises:
            ModelError: If there are not as many left.
        """
        places, count = self._places, len(x)
        if places.dim() == 2:
            left = len(places) - self._position
            if count > left:
                raise ModelError(f"choices are left for {left} inputs, and a batch has {count}")
            places = places[self._position : self._position + count]
            self._position += count
        return places.to(x.device, torch.int64).expand(count, self.layout.decisions)


class StatisticsGate(Gate):
    """Chooses by statistics of the operand.

    Args:
        widths: The widths, ascending.
        layout: Which values are decided about together.
        positions: Most values of each that are looked at.
        per: Whether each input is decided about alone, or a batch together.

    Raises:
        ModelError: If the widths are no widths of a gate, or nothing is looked at.
    """

    def __init__(
        self, widths: Sequence[int], layout: Layout, positions: int, per: Per = "sample"
    ) -> None:
        super().__init__(widths, layout)
        if positions < 1:
            raise ModelError(f"a decision looks at 1 value at least, got {positions}")
        if per not in ("sample", "batch"):
            raise ModelError(f"decisions are per 'sample' or per 'batch', got {per!r}")
        self.positions = positions
        self.per: Per = per

    @torch.no_grad()
    def statistics(self, x: Tensor, container: Container) -> Tensor:
        """Return what is looked at: ``n x decisions x 4``, or ``1 x ...`` where per batch."""
        # Flattened later than rounded: what is rounded is new and without gaps.
        codes = by_decision(container.whole(self.layout.sampled(x, self.positions)))
        return statistics(codes, container.zero_point, over_batch=self.per == "batch")

    def _check_fits(self, channels: int, choices: int) -> None:
        if (channels, choices) != (self.layout.decisions, len(self.widths)):
            raise ModelError(
                f"a gate of {self.layout.decisions} decisions among {len(self.widths)} widths was "
                f"given a selector of {channels} among {choices}"
            )


class SelectorGate(StatisticsGate):
    """Chooses as a selector of whole numbers says: what is deployed and measured.

    Args:
        widths: The widths, ascending.
        layout: Which values are decided about together.
        positions: Most values of each that are looked at.
        selector: What decides.
        per: Whether each input is decided about alone, or a batch together.

    Raises:
        ModelError: If the selector is for other decisions or another number of widths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        layout: Layout,
        positions: int,
        selector: IntegerSelector,
        per: Per = "sample",
    ) -> None:
        super().__init__(widths, layout, positions, per)
        self._check_fits(selector.channels, selector.choices)
        self.selector = selector

    def decide(self, x: Tensor, container: Container) -> Tensor:
        """Return the selector's choice."""
        chosen = self.selector.choose(self.statistics(x, container).cpu())
        return chosen.to(x.device).expand(len(x), -1)


class TrainableGate(StatisticsGate):
    """Chooses as selectors say that are being trained.

    Where gradients are on they flow to the selectors, and to the values as ever.

    Args:
        widths: The widths, ascending.
        layout: Which values are decided about together.
        positions: Most values of each that are looked at.
        selectors: What decides.
        per: Whether each input is decided about alone, or a batch together.
        estimator: What stands for the derivative of a choice.
        temperature: Of the estimator ``sigmoid``.

    Attributes:
        estimator: See above; may be changed between batches.
        temperature: See above; may be changed between batches.
        shares: Share of the decisions that fell on each width in the last batch, by input:
            ``n x widths``; with gradients where they are on. None before the first batch.

    Raises:
        ModelError: If the selectors are for other decisions or another number of widths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        layout: Layout,
        positions: int,
        selectors: Selectors,
        per: Per = "sample",
        *,
        estimator: Estimator = "identity",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(widths, layout, positions, per)
        self._check_fits(selectors.channels, selectors.choices)
        self.selectors = selectors
        self.estimator: Estimator = estimator
        self.temperature = temperature
        self.shares: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether any part of the selectors is trained."""
        return any(parameter.requires_grad for parameter in self.selectors.parameters())

    def decide(self, x: Tensor, container: Container) -> Tensor:
        """Return the selectors' choice."""
        return self.gates(x, container).detach().sum(-1).round().to(torch.int64)

    def quantized(self, x: Tensor, container: Container) -> Tensor:
        """Return the operand at the widths chosen, with gradients to the selectors."""
        if not (torch.is_grad_enabled() and self.is_recorded):
            return super().quantized(x, container)
        self.layout.check(x)
        gates = self.gates(x, container)
        self._remember(gates.sum(-1).round())
        return gated_quantize(x, container, gates, self.layout)

    def gates(self, x: Tensor, container: Container) -> Tensor:
        """Return the gates for a batch, ``n x decisions x (widths - 1)``, and fill `shares`."""
        scores = self.selectors(self.statistics(x, container))
        gates = self.selectors.gates(scores, self.estimator, self.temperature)
        gates = gates.expand(len(x), -1, -1)
        means = F.pad(F.pad(gates.mean(1), (1, 0), value=1.0), (0, 1))
        self.shares = means[:, :-1] - means[:, 1:]
        return gates
