"""Selectors as they are deployed: weights of 8 bits, everything else whole numbers.

A choice then depends on nothing but the input: not on the batch it came in, on threads or memory
formats.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...spaces import ModelError
from ...spaces.dynamic import STATISTICS

Arrays = Mapping[str, np.ndarray[Any, Any]]
"""The parts of a deployed selector by name."""

_MOST_HIDDEN = 256
"""Sums of this many products of 8-bit numbers stay below 2^23."""

LARGEST_BIAS = 2**22
"""With a bias and an offset of at most this, they stay below 2^24."""

LOWEST_FEATURE, LARGEST_FEATURE = -128, 127
"""Of statistics, once they are whole numbers."""

LARGEST_HIDDEN = 255
"""Of hidden units."""

_TYPES: Mapping[str, Any] = {
    "feature_scale": np.float32,
    "feature_shift": np.float32,
    "hidden_weight": np.int8,
    "hidden_bias": np.int32,
    "hidden_scale": np.float32,
    "score_weight": np.int8,
    "score_bias": np.int32,
    "thresholds": np.int32,
    "score_step": np.float32,
    "offset": np.float32,
}


class IntegerSelector:
    """A selector in whole numbers of 8 bits, for all channels of one operand.

    With statistics ``f`` of a channel, all of this in float32, which holds every sum exactly::

        q = clamp(round(f * feature_scale + feature_shift), -128, 127)
        h = clamp(round(relu(hidden_weight q + hidden_bias) * hidden_scale), 0, 255)
        z = score_weight h + score_bias + round(offset / score_step)
        choice = number of thresholds below z

    The sums are exact in any order, and nothing else depends on more than one number: a choice is
    the same in any batch.

    Args:
        arrays: Parts by name; ``G`` stands for the channels, or 1 where all share a part.

            - ``feature_scale``, ``feature_shift``: float32, ``G x 4``;
            - ``hidden_weight``: int8, ``G x hidden x 4``; ``hidden_bias``: int32 and
              ``hidden_scale``: float32, ``G x hidden``;
            - ``score_weight``: int8, ``G x hidden``; ``score_bias``: int32, ``channels``;
            - ``thresholds``: int32, ``G x (widths - 1)``, ascending;
            - ``score_step``: float32, ``G``: what one unit of ``z`` is as a score;
            - ``offset``: float32, 1 number: added to all scores.

    Raises:
        ModelError: If a part is missing, of another type or shape, or too large to be exact.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = {name: _part(arrays, name) for name in _TYPES}
        if unknown := sorted(set(arrays) - set(_TYPES)):
            raise ModelError(f"a selector has no part {unknown[0]!r}")
        self._check()
        tensors = {name: torch.from_numpy(a.astype(np.float32)) for name, a in self._arrays.items()}
        self._scale, self._shift = tensors["feature_scale"], tensors["feature_shift"]
        self._hidden = tensors["hidden_weight"], tensors["hidden_bias"], tensors["hidden_scale"]
        steps = self._arrays["score_step"].astype(np.float64)
        shift = np.rint(self._arrays["offset"].astype(np.float64) / steps)
        self._score_weight = tensors["score_weight"]
        bias = self._arrays["score_bias"] + np.clip(shift, -LARGEST_BIAS, LARGEST_BIAS)
        self._score_bias = torch.from_numpy(bias.astype(np.float32))
        self._thresholds = tensors["thresholds"]

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "IntegerSelector":
        """Return the selector of which `arrays` are these.

        Raises:
            ModelError: If they are not those of a selector.
        """
        return cls(arrays)

    @property
    def channels(self) -> int:
        """Decisions about one input."""
        return len(self._arrays["score_bias"])

    @property
    def choices(self) -> int:
        """Widths there are to choose from."""
        return int(self._arrays["thresholds"].shape[1]) + 1

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return int(self._arrays["score_weight"].shape[1])

    @property
    def is_shared(self) -> bool:
        """Whether all channels have one network."""
        return len(self._arrays["score_weight"]) == 1

    @property
    def offset(self) -> float:
        """What is added to all scores."""
        return float(self._arrays["offset"][0])

    def moved(self, offset: float) -> "IntegerSelector":
        """Return the selector with another offset: the larger, the wider its choices.

        Args:
            offset: In units of the scores it was trained on.
        """
        return IntegerSelector(self._arrays | {"offset": np.array([offset], dtype=np.float32)})

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return copies of the parts by name."""
        return {name: part.copy() for name, part in self._arrays.items()}

    @torch.no_grad()
    def scores(self, statistics: Tensor) -> Tensor:
        """Return the scores, whole numbers.

        Args:
            statistics: ``n x channels x 4``.
        """
        q = statistics.mul(self._scale).add_(self._shift).round_()
        q = q.clamp_(LOWEST_FEATURE, LARGEST_FEATURE)
        weight, bias, scale = self._hidden
        h = apply_by_channel(q, weight).add_(bias).relu_().mul_(scale).round_()
        h = h.clamp_(max=LARGEST_HIDDEN)
        z = apply_by_channel(h, self._score_weight.unsqueeze(1)).squeeze(-1)
        return z.add_(self._score_bias)

    def choose(self, statistics: Tensor) -> Tensor:
        """Return places among the widths, ``n x channels``.

        Args:
            statistics: ``n x channels x 4``.
        """
        return (self.scores(statistics).unsqueeze(-1) > self._thresholds).sum(-1)

    def _check(self) -> None:
        a = self._arrays
        channels, hidden = len(a["score_bias"]), a["score_weight"].shape[-1]
        if not (channels and 0 < hidden <= _MOST_HIDDEN):
            raise ModelError(
                f"a selector has at least 1 channel and 1 to {_MOST_HIDDEN} hidden units, got "
                f"{channels} and {hidden}"
            )
        choices = a["thresholds"].shape[-1]
        shapes = {
            "feature_scale": (STATISTICS,),
            "feature_shift": (STATISTICS,),
            "hidden_weight": (hidden, STATISTICS),
            "hidden_bias": (hidden,),
            "hidden_scale": (hidden,),
            "score_weight": (hidden,),
            "thresholds": (choices,),
            "score_step": (),
        }
        for name, rest in shapes.items():
            if a[name].shape not in ((1, *rest), (channels, *rest)):
                raise ModelError(
                    f"part {name!r} of a selector of {channels} channels has shape "
                    f"{a[name].shape}, expected {(channels, *rest)} or {(1, *rest)}"
                )
        if a["score_bias"].ndim != 1 or a["offset"].shape != (1,):
            raise ModelError("the biases of a selector are one per channel, and its offset is one")
        if len(a["hidden_weight"]) != len(a["score_weight"]):
            raise ModelError("both layers of a selector are shared by all channels, or neither is")
        for name in ("hidden_bias", "score_bias", "thresholds"):
            if a[name].size and np.abs(a[name].astype(np.int64)).max() > LARGEST_BIAS:
                raise ModelError(f"part {name!r} of a selector has numbers above {LARGEST_BIAS}")
        if (np.diff(a["thresholds"].astype(np.int64)) < 0).any():
            raise ModelError("the thresholds of a selector must not fall")
        if not (a["score_step"] > 0).all():
            raise ModelError("the score step of a selector must be positive")


def apply_by_channel(x: Tensor, weight: Tensor) -> Tensor:
    """Return the products of vectors and matrices, each channel with its own matrix.

    Args:
        x: ``n x channels x inputs``.
        weight: ``channels x outputs x inputs``, or ``1 x ...`` for one that all share.

    Returns:
        ``n x channels x outputs``.
    """
    if len(weight) == 1:
        return F.linear(x, weight[0])
    return torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)


def _part(arrays: Arrays, name: str) -> np.ndarray[Any, Any]:
    part = arrays.get(name)
    if part is None:
        raise ModelError(f"a selector needs a part {name!r}")
    if part.dtype != _TYPES[name]:
        raise ModelError(
            f"part {name!r} of a selector is {part.dtype}, not {_TYPES[name].__name__}"
        )
    if part.dtype == np.float32 and not np.isfinite(part).all():
        raise ModelError(f"part {name!r} of a selector is not finite")
    return np.array(part)
