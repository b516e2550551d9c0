"""What a Pareto figure shows of each strategy, whoever draws it.

Accuracies are those of the test split, with their standard errors, in percent. Costs are what the
study trades accuracy for, `StudyResult.cost`: mostly energies relative to the uniform 8-bit
network. A strategy's front is the best accuracy that its finalists reach at or below each cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spaces import Objective
from .palette import UNIFORM, Style, styles
from .result import Point, StudyResult

COST_AXES = {
    "energy": "Energy per inference, relative to uniform 8 bit",
    "size": "Size (bytes)",
    "bops": "Bit operations per inference",
    "mean_weight_bits": "Mean bits per weight",
    "mean_activation_bits": "Mean bits per activation",
}
"""What stands at the axis of a cost."""

ACCURACY_AXIS = "Top-1 accuracy on the test split (%)"
INK = "#222222"
"""Colour of text and of what is not a strategy."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The finalists of one strategy, cheapest first.

    Attributes:
        strategy: Its label.
        style: Its colour and marker.
        points: Its finalists that have an accuracy.
        measure: What the study trades accuracy for.
    """

    strategy: str
    style: Style
    points: tuple[Point, ...]
    measure: Objective

    @property
    def cost(self) -> npt.NDArray[np.float64]:
        """Costs on the test split."""
        return np.array([self.measure.of(point.test) for point in self.points])

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Accuracies in percent."""
        return np.array([100 * point.test.accuracy for point in self.points])

    @property
    def error(self) -> npt.NDArray[np.float64]:
        """Standard errors in percent."""
        return np.array([100 * point.test.accuracy_se for point in self.points])

    @property
    def best(self) -> npt.NDArray[np.float64]:
        """Best accuracy in percent at or below the cost of each point."""
        return np.maximum.accumulate(self.accuracy)

    @property
    def is_reference(self) -> bool:
        """Whether it is the uniform curve, which is drawn dashed for the others to be read by."""
        return self.strategy == UNIFORM


_DEEP_LOSS = 30.0
"""Points of accuracy lost from which on finalists differ in nothing anybody would choose by."""


def accuracy_range(result: StudyResult, drawn: Sequence[Curve]) -> tuple[float, float]:
    """Return the accuracies in percent that a figure opens on, with a margin.

    A strategy's cheapest finalists are often no better than guessing. They would press the rest
    into a thin band, so finalists more than 30 points below the float network are left out, or
    fewer if those are more than half.
    """
    float_accuracy = 100 * result.float_test.accuracy
    accuracy = np.concatenate([[float_accuracy], *(curve.accuracy for curve in drawn)])
    error = np.concatenate([[0.0], *(curve.error for curve in drawn)])
    shown = accuracy >= min(float_accuracy - _DEEP_LOSS, float(np.median(accuracy)))
    bottom, top = float(np.min((accuracy - error)[shown])), float(np.max(accuracy + error))
    margin = 0.05 * (top - bottom) or 1.0
    return bottom - margin, top + margin


def left_out(drawn: Sequence[Curve], lowest: float) -> str:
    """Return the sentence that says how many finalists lie below a figure; empty if none."""
    count = sum(int(np.sum(curve.accuracy < lowest)) for curve in drawn)
    return f"{count} finalist{'s' * (count > 1)} below {lowest:.0f} %" if count else ""


def curves(result: StudyResult) -> list[Curve]:
    """Return the curve of every strategy that has a finalist, in the study's order."""
    drawn = []
    for strategy, style in styles(trial.strategy for trial in result.trials).items():
        own = [p for p in result.points if p.strategy == strategy and not p.test.failed]
        if own:
            own.sort(key=lambda point: result.cost.of(point.test))
            drawn.append(Curve(strategy, style, tuple(own), result.cost))
    return drawn
