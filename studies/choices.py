"""What was chosen while a network ran, summed up: shares, energies, groups of inputs."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..energy import EnergyModel, decision_cost, input_energies
from ..spaces import Ablation, DynamicAllocation, InputGroup, Operand, Usage
from ..spaces.usage import QUANTILES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Chosen = Mapping[tuple[str, Operand], npt.NDArray[np.uint8]]
"""For each layer and operand which of its widths was chosen, ``[n, decisions]``."""

LayerChoices = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]
"""Of a layer: weight and activation widths, ``k`` each, and shares of each input, ``n x k``."""

_THIRDS = 3


def channel_usage(
    energy: EnergyModel,
    dynamic: DynamicAllocation,
    chosen: Chosen,
    right: Bools,
    entropies: Floats,
    ablations: Sequence[Ablation] = (),
) -> Usage:
    """Return what widths channels got.

    Args:
        energy: Prices the network.
        dynamic: What was chosen from.
        chosen: What was chosen for ``n`` inputs.
        right: Which of them were answered with their label.
        entropies: How complex they are.
        ablations: What was measured with other choices.
    """
    layers = layer_choices(dynamic, chosen, len(right))
    energies = input_energies(energy, dynamic, layers)
    return Usage(
        dynamic,
        len(right),
        mean_shares(layers),
        deciding=decision_cost(energy, dynamic) / energy.w8a8,
        energy_std=float(energies.std()),
        priced_by=energy.digest,
        energy_quantiles=tuple(np.quantile(energies, QUANTILES).tolist()),
        terciles=_terciles(right, entropies, energies, wide(chosen, dynamic)),
        ablations=tuple(ablations),
    )


def cascade_usage(
    energy: EnergyModel,
    dynamic: DynamicAllocation,
    answered: npt.NDArray[np.int64],
    ran: Bools,
    right: Bools,
    entropies: Floats,
) -> Usage:
    """Return which members answered.

    Args:
        energy: Prices the network.
        dynamic: The cascade.
        answered: The member that answered each of ``n`` inputs.
        ran: Which members were run on it, ``n x members``.
        right: Which inputs were answered with their label.
        entropies: How complex they are.
    """
    often = ran.mean(axis=0)
    decisions = ran[:, :-1].sum(axis=1).astype(np.float64)
    by_member = np.array([energy.energy(member) for member in dynamic.members])
    cost = decision_cost(energy, dynamic)
    energies = (ran @ by_member + decisions * cost) / energy.w8a8
    shares: list[tuple[tuple[int, int, float], ...]] = []
    for number, _ in enumerate(dynamic.layers):
        mine: dict[tuple[int, int], float] = {}
        for member, share in zip(dynamic.members, often.tolist(), strict=True):
            pair = int(member.weights[number]), int(member.activations[number])
            mine[pair] = mine.get(pair, 0.0) + share
        shares.append(tuple((w, a, share) for (w, a), share in sorted(mine.items())))
    last = len(dynamic.members) - 1
    return Usage(
        dynamic,
        len(right),
        tuple(shares),
        ran=tuple(often.tolist()),
        answered=tuple(np.bincount(answered, minlength=last + 1) / len(answered)),
        deciding=float(decisions.mean()) * cost / energy.w8a8,
        energy_std=float(energies.std()),
        priced_by=energy.digest,
        energy_quantiles=tuple(np.quantile(energies, QUANTILES).tolist()),
        terciles=_terciles(right, entropies, energies, (answered == last).astype(np.float64)),
        member_energies=tuple((by_member / energy.w8a8).tolist()),
    )


def layer_choices(dynamic: DynamicAllocation, chosen: Chosen, inputs: int) -> list[LayerChoices]:
    """Return, for each layer, the widths there are and how much of it every input got at these."""
    found = []
    for number, name in enumerate(dynamic.layers):
        weights = np.array(dynamic.widths(number, "weight"))
        activations = np.array(dynamic.widths(number, "activation"))
        # Channels of one operand meet all of the other, but in products of heads: one each.
        first = chosen.get((name, "weight"), np.zeros((inputs, 1), np.uint8)).astype(np.int64)
        second = chosen.get((name, "activation"), np.zeros((inputs, 1), np.uint8))
        pairs = first * len(activations) + second
        kinds = np.arange(len(weights) * len(activations))
        shares = (pairs[:, :, None] == kinds).mean(axis=1)
        found.append(
            (weights[kinds // len(activations)], activations[kinds % len(activations)], shares)
        )
    return found


def mean_shares(layers: Sequence[LayerChoices]) -> tuple[tuple[tuple[int, int, float], ...], ...]:
    """Return the means over inputs, as `Usage` has them."""
    return tuple(
        tuple(
            zip(weights.tolist(), activations.tolist(), shares.mean(axis=0).tolist(), strict=True)
        )
        for weights, activations, shares in layers
    )


def wide(chosen: Chosen, dynamic: DynamicAllocation) -> Floats:
    """Return the share of each input's decisions that were for the largest width there was."""
    largest = {slot: len(widths) - 1 for slot, widths in dynamic.choices.items()}
    widest = np.concatenate([chosen[slot] == last for slot, last in largest.items()], axis=1)
    return np.asarray(widest.mean(axis=1), dtype=np.float64)


def static_choices(
    chosen: Chosen, dynamic: DynamicAllocation
) -> dict[tuple[str, Operand], npt.NDArray[np.uint8]]:
    """Return constant choices, one row for each operand, nearest to the mean ones.

    Of every layer as many channels get a width, or a larger one, as do on average; those that got
    it most often. The energy of the layers is then the same but for rounding.
    """
    found = {}
    for slot, rows in chosen.items():
        constant = np.zeros(rows.shape[1], np.uint8)
        for level in range(int(rows.max(initial=0)), 0, -1):
            often = (rows >= level).mean(axis=0)
            # Those that have a larger width already are among those that have at least this one.
            order = np.argsort(np.where(constant > 0, -2.0, -often), kind="stable")
            chosen_here = order[: int(np.rint(often.sum()))]
            constant[chosen_here] = np.maximum(constant[chosen_here], level)
        found[slot] = constant
    return found


def _terciles(
    right: Bools, entropies: Floats, energies: Floats, wide_shares: Floats
) -> tuple[InputGroup, ...]:
    groups = np.array_split(np.argsort(entropies, kind="stable"), _THIRDS)
    return tuple(
        InputGroup(
            len(group),
            float(entropies[group].mean()),
            float(right[group].mean()),
            float(energies[group].mean()),
            float(wide_shares[group].mean()),
        )
        for group in groups
        if len(group)
    )
