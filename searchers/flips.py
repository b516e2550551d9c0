"""Ways from the widest widths down, flip by flip, in the order that sensitivity scores give.

[AMP] Automatic mixed precision of quic/aimet: phase 1 ranks flips, phase 2 applies them in that
order.

[COREAI] The greedy recipe of Apple's coreai-opt: always the flip that costs least score for what it
saves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spaces import BitSpace, Scores
from ..spaces.constraints import Variable
from ..spaces.slots import OPERANDS
from .steps import Widths, set_width, widest, width_of, with_width

Floats = npt.NDArray[np.float64]

Offer = tuple[float, int, int]
"""Score added for the cost saved, minus the bits, and the group: of several, the least is taken."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One group of tied operands, taken from its widest choice to another.

    Attributes:
        group: Index into `BitSpace.variables`.
        bits: The width it goes to.
        score: What that alone does to the network; more is worse.
    """

    group: int
    bits: int
    score: float


def score_of(scores: Scores, group: Variable, bits: int) -> float:
    """Return the score of a group at a width: the sum over the operands that are tied."""
    return float(sum(scores.values[s.layer, OPERANDS.index(s.operand), bits] for s in group.slots))


def score_of_state(scores: Scores, widths: Widths) -> float:
    """Return the score of a state: the sum over all operands."""
    layers, operands = np.indices(widths.shape)
    return float(scores.values[layers, operands, widths].sum())


def saved(costs: Floats, before: Widths, after: Widths) -> float:
    """Return what a state costs less than another; exactly 0 where nothing is saved.

    Args:
        costs: ``L x 33 x 33`` costs of a layer by weight and activation width.
        before: The dearer state.
        after: The cheaper one.
    """
    changed = np.flatnonzero((before != after).any(axis=1)).tolist()
    pairs = [(costs[i, *before[i]], costs[i, *after[i]]) for i in changed]
    return float(sum(dear - cheap for dear, cheap in pairs))


def rank_flips(space: BitSpace, scores: Scores, costs: Floats) -> list[Flip]:
    """Return the accuracy list of [AMP]: every flip away from the widest widths, the best first.

    Of equal scores the wider width comes first, then what saves more, then the earlier group.

    Args:
        space: A space per layer.
        scores: What each flip alone does to the network.
        costs: ``L x 33 x 33`` costs of a layer by weight and activation width.
    """
    start = widest(space)

    def rank(flip: Flip) -> tuple[float, int, float, int]:
        alone = set_width(start, space.variables[flip.group], flip.bits)
        saving = np.nan_to_num(saved(costs, start, alone))
        return flip.score, -flip.bits, -float(saving), flip.group

    flips = (
        Flip(v, bits, score_of(scores, group, bits))
        for v, group in enumerate(space.variables)
        for bits in group.choices
        if bits != width_of(start, group)
    )
    return sorted(flips, key=rank)


def apply_flips(space: BitSpace, flips: list[Flip]) -> Iterator[Widths]:
    """Yield the widest widths, and the state after each flip in turn.

    A later flip of a group overrides an earlier one, be it to more bits. So the cost need not fall
    from state to state, and a state may be worse than another in every way. A flip that the space
    forbids where it comes is left out.

    Args:
        space: A space per layer.
        flips: What to apply, in order.
    """
    state = widest(space)
    yield state
    for flip in flips:
        changed = with_width(space, state, space.variables[flip.group], flip.bits)
        if changed is not None:
            state = changed
            yield state


def cheapest_harm_first(space: BitSpace, scores: Scores, costs: Floats) -> Iterator[Widths]:
    """Yield the widest widths, and the state after each flip that [COREAI] takes from there.

    Each flip is the one that adds least score for the cost it saves, of all groups and all their
    lower widths; of equally good ones that to more bits, then that of the earlier group. What
    saves nothing is never taken, and so the cost falls from state to state.

    Args:
        space: A space per layer.
        scores: What each width of each operand does to the network, monotone.
        costs: ``L x 33 x 33`` costs of a layer by weight and activation width.
    """
    state = widest(space)
    yield state
    groups = range(len(space.variables))
    layers = [{slot.layer for slot in group.slots} for group in space.variables]
    offers: dict[int, Offer] = {}
    changed: Sequence[int] = groups
    while True:
        for v in changed:
            offers.pop(v, None)
            if (offer := _least_harm(space, scores, costs, state, v)) is not None:
                offers[v] = offer
        if not offers:
            return
        _, bits, flipped = min(offers.values())
        state = set_width(state, space.variables[flipped], -bits)
        yield state
        # What a flip saves depends on the other operand of its layers, and on nothing else.
        changed = [v for v in groups if layers[v] & layers[flipped]]


def _least_harm(
    space: BitSpace, scores: Scores, costs: Floats, state: Widths, v: int
) -> Offer | None:
    """Return the best flip of one group to fewer bits; None if none saves anything."""
    group = space.variables[v]
    now = width_of(state, group)
    offers: list[Offer] = []
    for bits in group.choices[: group.choices.index(now)]:
        lower = with_width(space, state, group, bits)
        if lower is not None and (saving := saved(costs, state, lower)) > 0:
            harm = score_of(scores, group, bits) - score_of(scores, group, now)
            offers.append((harm / saving, -bits, v))
    return min(offers, default=None)
