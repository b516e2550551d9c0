"""Selectors that are trained together with the network, as a trainer needs them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...spaces import BitAllocation, DynamicAllocation
from ..qat.network import TrainableNetwork
from ..qat.ranges import ActivationQuantizer
from .gates import TrainableGate
from .operands import Slot
from .prices import Prices


class LearnedSelectors(nn.Module):
    """Selectors of a network that is trained; see `qat.trainer.LearnedWidths`.

    Args:
        network: Whose quantizers are to ask the gates.
        gates: By operand.
        dynamic: What there is to choose.
        prices: What choices cost.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        gates: Mapping[Slot, TrainableGate],
        dynamic: DynamicAllocation,
        prices: Prices,
    ) -> None:
        super().__init__()
        self._network, self._gates = network, gates
        self._dynamic, self._prices = dynamic, prices
        self.selectors = nn.ModuleList(gate.selectors for gate in gates.values())

    def join(self) -> None:
        """Let the gates choose from now on."""
        for (layer, operand), gate in self._gates.items():
            wrapped = self._network.trainable_layers[layer]
            quantizer = wrapped.right if operand == "weight" else wrapped.left
            assert isinstance(quantizer, ActivationQuantizer)
            quantizer.gate = gate

    def set_temperature(self, temperature: float) -> None:
        """Set the width of the sigmoids that stand for the gates' derivatives."""
        for gate in self._gates.values():
            gate.temperature = temperature

    def operands(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the widths of all that does not choose, and the widest ones of what does."""
        widest = self._dynamic.widest
        device = next(self.parameters()).device
        both = torch.tensor([widest.weights, widest.activations], dtype=torch.float32)
        weights, activations = both.to(device).unbind()
        return weights.unbind(), activations.unbind()

    def energy(self) -> Tensor:
        """Return the mean energy of the last batch, with gradients."""
        shares = {}
        for slot, gate in self._gates.items():
            assert gate.shares is not None
            shares[slot] = gate.shares
        return self._prices.energy(shares).mean()

    def mean_widths(self) -> dict[Slot, float]:
        """Return the mean widths of the last batch."""
        found = {}
        for slot, gate in self._gates.items():
            assert gate.shares is not None
            widths = torch.tensor(gate.widths, dtype=torch.float32)
            found[slot] = float(gate.shares.detach().cpu().mean(0) @ widths)
        return found

    def rounded(self) -> BitAllocation:
        """Return the widest member."""
        return self._dynamic.widest

    def observe(self, beta: float) -> None:
        """Take no note of gradients."""
