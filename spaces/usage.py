"""What a dynamic allocation chose, over the inputs it was measured on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .dynamic import DynamicAllocation
from .errors import SpaceError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""What is kept of the distribution of energies."""


@dataclass(frozen=True, slots=True)
class InputGroup:
    """Inputs that are alike, and what they got.

    Attributes:
        inputs: How many there are.
        entropy: Mean entropy of their histograms, in bits.
        accuracy: Share of them that was right.
        energy: Mean energy relative to uniform 8 bit.
        wide_share: Mean share of what is chosen that got the largest of its widths; of a cascade,
            share of the inputs that the last member answered.
    """

    inputs: int
    entropy: float
    accuracy: float
    energy: float
    wide_share: float


@dataclass(frozen=True, slots=True)
class Ablation:
    """The same network where what is chosen does not follow the input.

    Attributes:
        name: ``static``: every channel has its mean choice, taken over the same inputs, which
            favours it; ``shuffled``: every input has the choices made for another one, of a cascade
            the member that answered another one.
        accuracy: Share of right answers.
        loss: Mean cross-entropy in nats.
        energy: Mean energy relative to uniform 8 bit, the cost of deciding left out of ``static``.
        differs: Share of the inputs that are right here or there but not in both: what a paired
            comparison rests on.
    """

    name: str
    accuracy: float
    loss: float
    energy: float
    differs: float


@dataclass(frozen=True)
class Usage:
    """What was chosen, and what followed from it.

    Attributes:
        allocation: What there was to choose from.
        inputs: How many inputs.
        shares: For each layer, triples of weight width, activation width, and how often it was
            computed at these: the mean over inputs of the share of its multiply-accumulates. They
            sum to 1, for a cascade to the mean number of members that were run.
        ran: For ``cascade``: share of the inputs that each member was run on.
        answered: For ``cascade``: share of the inputs that each member answered.
        deciding: Energy of deciding for one input, relative to uniform 8 bit.
        energy_std: Standard deviation over inputs of the energy relative to uniform 8 bit.
        energy_quantiles: Its `QUANTILES`.
        terciles: Inputs by the entropy of their histograms, a third each, simple ones first.
        ablations: What happens if the choices do not follow the input; where it was measured.
        member_energies: For ``cascade``: of each member, relative to uniform 8 bit.
        priced_by: Digest of the prices that all energies here follow from.
    """

    allocation: DynamicAllocation
    inputs: int
    shares: tuple[tuple[tuple[int, int, float], ...], ...]
    ran: tuple[float, ...] = ()
    answered: tuple[float, ...] = ()
    deciding: float = 0.0
    energy_std: float = 0.0
    energy_quantiles: tuple[float, ...] = ()
    terciles: tuple[InputGroup, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    member_energies: tuple[float, ...] = ()
    priced_by: str = ""

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.allocation.layers):
            raise SpaceError(
                f"shares of {len(self.shares)} layers for {len(self.allocation.layers)} layers"
            )

    @property
    def decisions(self) -> float:
        """How often it is decided for an input, on average: once, or after each member but one."""
        return sum(self.ran[:-1]) if self.ran else 1.0

    def share_of(self, layer: int, operand: int, width: int) -> float:
        """Return how much of a layer was computed with an operand at a width, of 1.

        Args:
            layer: Its number.
            operand: 0 for the weights or right operand, 1 for the input.
            width: The width.
        """
        mine = self.shares[layer]
        whole = sum(triple[2] for triple in mine)
        return sum(triple[2] for triple in mine if triple[operand] == width) / whole

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "allocation": self.allocation.to_dict(),
            "inputs": self.inputs,
            "shares": [[list(triple) for triple in layer] for layer in self.shares],
            "ran": list(self.ran),
            "answered": list(self.answered),
            "deciding": self.deciding,
            "energy_std": self.energy_std,
            "energy_quantiles": list(self.energy_quantiles),
            "terciles": [asdict(group) for group in self.terciles],
            "ablations": [asdict(ablation) for ablation in self.ablations],
            "member_energies": list(self.member_energies),
            "priced_by": self.priced_by,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Usage":
        """Build a usage from what `to_dict` returns.

        Raises:
            SpaceError: If it is not such a value.
        """
        try:
            return cls(
                DynamicAllocation.from_dict(values["allocation"]),
                int(values["inputs"]),
                tuple(
                    tuple((int(w), int(a), float(share)) for w, a, share in layer)
                    for layer in values["shares"]
                ),
                tuple(map(float, values["ran"])),
                tuple(map(float, values["answered"])),
                float(values["deciding"]),
                float(values["energy_std"]),
                tuple(map(float, values["energy_quantiles"])),
                tuple(InputGroup(**group) for group in values["terciles"]),
                tuple(Ablation(**ablation) for ablation in values["ablations"]),
                tuple(map(float, values.get("member_energies", ()))),
                str(values.get("priced_by", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"this is no usage of a dynamic allocation: {error}") from error
