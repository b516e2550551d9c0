"""Sensitivity scores: what quantizing one operand of one layer alone is expected to cost."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import EvaluationError, SpaceError
from .layer import Layer
from .slots import OPERANDS

WIDTHS = 33
"""Columns of an array by width: 0 to 32 bits."""

SCORES_VERSION = 1
"""Part of every signature: raise it when the same settings get other scores than before."""

Choices = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Per layer, the widths its weights and its input activations may take."""


@dataclass(frozen=True, eq=False)
class Scores:
    """How much worse a network is expected to get by quantizing one operand of one layer alone.

    Additive: the score of an allocation is the sum over its operands. That is a model, not a
    measurement; what is chosen by it has to be measured.

    Attributes:
        config: The settings they were computed with, plain values.
        signature: Name of the network, the data, the choices and the settings.
        layers: Layer names, in network order, ``L`` of them.
        values: ``L x 2 x 33`` by layer, operand (weight, activation) and bits; NaN where a width
            was not scored. An operand with a single choice is not measured and scores 0: what
            cannot change makes no difference to a choice.
        images_forward: Images passed forward to compute them.
        images_backward: Images passed backward.
        wall_s: Seconds it took.

    Raises:
        SpaceError: If the shape of the values does not fit the layers.
        EvaluationError: If a score is infinite, or an operand has none.
    """

    config: Mapping[str, Any]
    signature: str
    layers: tuple[str, ...]
    values: npt.NDArray[np.float64]
    images_forward: int = 0
    images_backward: int = 0
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        expected = (len(self.layers), len(OPERANDS), WIDTHS)
        if self.values.shape != expected:
            raise SpaceError(
                f"scores of {len(self.layers)} layers have shape {expected}, "
                f"got {self.values.shape}"
            )
        for name, layer in zip(self.layers, self.values, strict=True):
            for operand, row in zip(OPERANDS, layer, strict=True):
                if np.isnan(row).all():
                    raise EvaluationError(f"{self.kind} scores of {name}.{operand} are missing")
                if np.isinf(row).any():
                    bits = int(np.argmax(np.isinf(row)))
                    raise EvaluationError(
                        f"the {self.kind} score of {name}.{operand} at {bits} bits is not finite; "
                        f"choose another score, or leave that width out of the space"
                    )

    @property
    def kind(self) -> str:
        """What was computed, such as ``kl``."""
        return str(self.config.get("kind", "sensitivity"))

    def monotone(self) -> "Scores":
        """Return scores in which more bits of an operand never score above fewer.

        From few bits to many, each score is lowered to the smallest before it, as NVIDIA's Model
        Optimizer does: noise of a measurement then never makes fewer bits look better.
        """
        values = self.values.copy()
        known = ~np.isnan(values)
        lowered = np.minimum.accumulate(np.where(known, values, np.inf), axis=2)
        values[known] = lowered[known]
        return replace(self, values=values)

    def pairs(self) -> npt.NDArray[np.float64]:
        """Return the scores of layers by both widths, ``L x 33 x 33``; NaN where unknown."""
        weight, activation = self.values[:, 0, :, None], self.values[:, 1, None, :]
        return np.asarray(weight + activation)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: scores by layer, operand and bits."""
        scores = {
            name: {
                operand: {str(bits): float(row[bits]) for bits in np.flatnonzero(~np.isnan(row))}
                for operand, row in zip(OPERANDS, layer, strict=True)
            }
            for name, layer in zip(self.layers, self.values, strict=True)
        }
        return {
            "config": dict(self.config),
            "signature": self.signature,
            "images_forward": self.images_forward,
            "images_backward": self.images_backward,
            "wall_s": self.wall_s,
            "scores": scores,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Scores":
        """Build scores from what `to_dict` returns.

        Raises:
            SpaceError: If that is not what is given.
            EvaluationError: If a score is not finite.
        """
        try:
            scores = given["scores"]
            values = np.full((len(scores), len(OPERANDS), WIDTHS), np.nan)
            for row, (name, operands) in enumerate(scores.items()):
                for column, operand in enumerate(OPERANDS):
                    for bits, score in operands[operand].items():
                        if not math.isfinite(score):
                            raise EvaluationError(
                                f"the score of {name}.{operand} at {bits} bits is {score}: "
                                f"compute the scores again"
                            )
                        if not 0 <= int(bits) < WIDTHS:
                            raise ValueError(f"{bits} bits for {name}.{operand}")
                        values[row, column, int(bits)] = score
            return cls(
                dict(given["config"]),
                str(given["signature"]),
                tuple(scores),
                values,
                int(given["images_forward"]),
                int(given["images_backward"]),
                float(given["wall_s"]),
            )
        except EvaluationError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SpaceError(
                f"these are no sensitivity scores ({type(error).__name__}: {error})"
            ) from error

    def save(self, path: Path) -> None:
        """Write the scores to a JSON file."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, signature: str | None = None) -> "Scores":
        """Read scores from a file.

        Args:
            path: A file that `save` wrote.
            signature: What their signature has to be; any if None.

        Raises:
            SpaceError: If the file cannot be read, is none of scores, or its scores are of
                another network, other data or other settings.
        """
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpaceError(f"the scores {path} cannot be read: {error}") from error
        try:
            scores = cls.from_dict(given)
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from error
        if signature is not None and scores.signature != signature:
            raise SpaceError(
                f"the scores {path} are of another network, other data, another space or other "
                f"settings (signature {scores.signature}, expected {signature}): compute them anew"
            )
        return scores


def score_signature(source: str, config: Mapping[str, Any], choices: Choices) -> str:
    """Return the name of the scores that some settings give.

    Args:
        source: Name of the network with its weights, its quantizers and the images.
        config: Settings of the score.
        choices: The widths that are scored.
    """
    facts = [SCORES_VERSION, source, dict(config), [[list(w), list(a)] for w, a in choices]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def require_scored(
    kind: str, layers: Sequence[Layer], values: npt.NDArray[np.float64], choices: Choices
) -> None:
    """Check that every choice has a finite score.

    Args:
        kind: What was computed, for the message.
        layers: The network.
        values: ``L x 2 x 33``, as in `Scores`.
        choices: The widths of each layer.

    Raises:
        EvaluationError: Naming the first operand and width that has none.
    """
    for layer, operands, rows in zip(layers, choices, values, strict=True):
        for operand, widths, row in zip(OPERANDS, operands, rows, strict=True):
            for bits in widths:
                if not math.isfinite(row[bits]):
                    raise EvaluationError(
                        f"the {kind} score of {layer.name}.{operand} at {bits} bits is "
                        f"{row[bits]}; choose another score, or leave that width out of the space"
                    )


def blank_values(layers: Sequence[Layer], choices: Choices) -> npt.NDArray[np.float64]:
    """Return values before anything is scored: NaN, and 0 for operands with a single choice.

    Args:
        layers: The network.
        choices: The widths of each of its layers.
    """
    values = np.full((len(layers), len(OPERANDS), WIDTHS), np.nan)
    for row, operands in enumerate(choices):
        for column, widths in enumerate(operands):
            if len(widths) == 1:
                values[row, column, widths[0]] = 0.0
    return values
