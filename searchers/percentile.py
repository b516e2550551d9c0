"""Percentile-sensitivity post-training quantization.

[BSV25] Bhar, Skakri, Venkatesan. Energy-Aware Quantization and Mixed-Precision Learning for Vision
Models. 2025. Sections 3.3 and 3.4, appendix A.2.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..spaces import KNOWN_WIDTHS, BitAllocation, BitSpace, EvaluationError, StudyError
from .base import Searcher
from .problem import Problem
from .registry import register
from .spread import farthest_first
from .widths import check_offered, offered_widths

Triple = tuple[int, int, int]

PUBLISHED_TRIPLE: Triple = (4, 6, 8)

QUARTILES = tuple(
    sorted(itertools.combinations((0.0, 25.0, 50.0, 75.0, 100.0), 2), key=lambda p: p != (25, 75))
)
"""Every pair of quartiles, the published (25, 75) first."""


@register("percentile")
@dataclass(frozen=True, kw_only=True)
class Percentile(Searcher):
    """Gives the most sensitive layers the most bits, by percentiles of one sensitivity [BSV25].

    One calibration pass measures how far each layer's output moves, ||y_full - y_quant||_2 (eq.
    5), with that layer alone quantized. Layers at or above the upper percentile get the high
    width, those at or below the lower one the low width, the others the middle one (eq. 6);
    percentiles run over all layers. What the space pins is kept: by default the first and the
    last layer at 8 bits (A.2). Weights and input activations get the same width.

    The publication has one assignment. Here every triple of widths meets every pair of percentiles,
    which gives a front: the first triple with the first pair is measured first, then always the
    assignment whose energy is farthest from those before, so that any budget spans the energies.

    Attributes:
        triples: (low, middle, high) widths, the most trusted first; if None the published
            (4, 6, 8), where offered, and then every evenly spaced triple of the widths the space
            offers.
        percentiles: (lower, upper) percentiles, the most trusted first.
        probe_bits: Width at which the sensitivity is measured; the publication does not say.
    """

    summary: ClassVar[str] = "Bits by percentiles of each layer's output error under quantization."
    paper: ClassVar[str] = "Bhar, Skakri, Venkatesan 2025, sections 3.3 and 3.4"
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})
    needs_model: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    triples: tuple[Triple, ...] | None = None
    percentiles: tuple[tuple[float, float], ...] = QUARTILES
    probe_bits: int = 4

    def __post_init__(self) -> None:
        if self.triples is not None and not self.triples:
            raise StudyError("triples must hold at least one triple, or be left out for all")
        for triple in self.triples or ():
            if list(triple) != sorted(triple):
                raise StudyError(f"a triple is (low, middle, high) bits, got {list(triple)}")
        if not self.percentiles:
            raise StudyError("percentiles must hold at least one pair")
        for lower, upper in self.percentiles:
            if not 0 <= lower <= upper <= 100:
                raise StudyError(
                    f"a pair of percentiles is 0 <= lower <= upper <= 100, got [{lower}, {upper}]"
                )
        if self.probe_bits not in KNOWN_WIDTHS[:-1]:
            raise StudyError(
                f"probe_bits must be one of {', '.join(map(str, KNOWN_WIDTHS[:-1]))}, "
                f"got {self.probe_bits}"
            )

    def check(self, space: BitSpace) -> None:
        """Refuse triples with widths the space does not offer."""
        super().check(space)
        check_offered(space, itertools.chain.from_iterable(self.triples or ()), "triples")

    def search(self, problem: Problem) -> None:
        """Measure the sensitivities once, then the assignments that follow from them."""
        sensitivity = _sensitivity(problem, self.probe_bits)
        candidates = problem.only_allowed(self._assignments(problem.space, sensitivity))
        order = farthest_first([problem.price(a, problem.cost_name) for a in candidates])
        problem.evaluate([candidates[index] for index in order])

    def _assignments(
        self, space: BitSpace, sensitivity: npt.NDArray[np.float64]
    ) -> Iterator[BitAllocation]:
        names = [layer.name for layer in space.layers]
        for pair, triple in itertools.product(self.percentiles, self.triples or _triples(space)):
            bits = assign(sensitivity, triple, pair).tolist()
            yield space.project(BitAllocation(names, bits, bits))


def assign(
    sensitivity: npt.NDArray[np.float64], triple: Triple, percentiles: tuple[float, float]
) -> npt.NDArray[np.int64]:
    """Return the width of each layer ([BSV25] eq. 6).

    A layer exactly at the lower percentile gets the low width. Eq. 6 gives it the middle one, yet
    only so do the 21 layers of ResNet-18 come to the 6 / 9 / 6 of Table 3.

    Args:
        sensitivity: ``L`` sensitivities.
        triple: (low, middle, high) widths.
        percentiles: (lower, upper), linearly interpolated between layers as `numpy.percentile`.

    Examples:
        >>> assign(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), (4, 6, 8), (25, 75)).tolist()
        [6, 4, 4, 8, 8]
    """
    low, middle, high = triple
    lower, upper = np.percentile(sensitivity, percentiles)
    return np.select([sensitivity >= upper, sensitivity <= lower], [high, low], default=middle)


def _triples(space: BitSpace) -> list[Triple]:
    """Return the published triple, if offered, and every evenly spaced one, dearest first."""
    widths = offered_widths(space)
    if len(widths) < 3:
        return list(itertools.combinations_with_replacement(widths, 3))
    ladder = sorted(
        (
            (widths[i - step], widths[i], widths[i + step])
            for i in range(1, len(widths) - 1)
            for step in range(1, min(i, len(widths) - 1 - i) + 1)
        ),
        reverse=True,
    )
    published = [PUBLISHED_TRIPLE] if set(PUBLISHED_TRIPLE) <= set(widths) else []
    return list(dict.fromkeys(published + ladder))


def _sensitivity(problem: Problem, bits: int) -> npt.NDArray[np.float64]:
    """Return ||y_full - y_quant||_2 of each layer's output over the calibration set."""
    from ..models.sensitivity import layer_output_l2  # brings torch

    batches = problem.calibration()
    sensitivity = layer_output_l2(problem.shared_model, batches, bits)
    problem.charge(forward=sum(len(images) for images, _ in batches))
    if not np.isfinite(sensitivity).all():
        worst = problem.space.layers[int(np.argmin(np.isfinite(sensitivity)))].name
        raise EvaluationError(f"the output of layer {worst!r} is not finite at {bits} bits")
    return sensitivity
