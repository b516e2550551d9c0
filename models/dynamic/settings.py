"""Settings of selectors and of how they are fitted; light, to be the fields of strategies."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from ...spaces import ModelError, nearest

PerInput = Literal["sample", "batch"]
Sharing = Literal["shared", "channel"]
Estimator = Literal["identity", "sigmoid"]

_LARGEST_HIDDEN = 256


@dataclass(frozen=True, kw_only=True)
class SelectorSettings:
    """What selectors there are, and how gradients pass through what they choose.

    Attributes:
        widths: Widths that a channel's activation has the choice of, at most 8 bits each; a layer
            has those of them that the space leaves it.
        per: Whether widths follow the statistics of each ``sample``, or those of all that share a
            ``batch``: what comes out then depends on how inputs are put together.
        selectors: Whether all channels of an operand have one network (``shared``), with a bias
            for each, or every ``channel`` its own.
        hidden: Hidden units of a selector.
        positions: Most values of a channel that it looks at.
        max_overhead: Largest share of its layer's energy at 8 bits that a selector may cost; where
            it would cost more, the operand has one width for all inputs.
        attention: Whether operands of the products of attention get selectors, and the layers
            that read its heads.
        estimator: How a gradient passes through a choice: as if that were the score itself
            (``identity``), or a ``sigmoid`` of it.
        temperature: Width of the sigmoid, in units of the score, at first.
        final_temperature: The same in the end; it falls geometrically.

    Raises:
        ModelError: If a value is unknown or out of range.
    """

    widths: tuple[int, ...] = (4, 8)
    per: PerInput = "sample"
    selectors: Sharing = "shared"
    hidden: int = 8
    positions: int = 32
    max_overhead: float = 0.01
    attention: bool = True
    estimator: Estimator = "sigmoid"
    temperature: float = 1.0
    final_temperature: float = 0.3

    def __post_init__(self) -> None:
        check_words(self, SelectorSettings)
        if len(self.widths) < 2 or list(self.widths) != sorted(set(self.widths)):
            raise ModelError(
                f"widths to choose from rise and are two at least, such as [4, 8], got "
                f"{list(self.widths)}"
            )
        if self.widths[0] < 2 or self.widths[-1] > 8:
            raise ModelError(
                f"channels choose from widths of 2 to 8 bits, which fit into the codes of integer "
                f"kernels, got {list(self.widths)}"
            )
        if not 1 <= self.hidden <= _LARGEST_HIDDEN:
            raise ModelError(f"hidden must be from 1 to {_LARGEST_HIDDEN}, got {self.hidden}")
        if self.positions < 1:
            raise ModelError(f"positions must be at least 1, got {self.positions}")
        for name in ("max_overhead", "temperature", "final_temperature"):
            check_positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class FitSettings(SelectorSettings):
    """How selectors are fitted to a network that stays as it is.

    Attributes:
        epochs: Passes over the calibration images with gradients, after the regression that
            selectors begin with; 0 for that alone.
        lr: Learning rate of Adam, which falls to zero along half a cosine.
        batch_size: Images per step.
        alpha: Factor of the distance of the logits from those of the float network.
        beta: Factor of the energy relative to uniform 8 bit; if None, every step draws another
            one, and what is fitted suits all of them.
        directions: Random directions of the logits along which it is measured what they lose.
        regression_steps: Steps of the regression that selectors begin with.
        threads: Threads of torch; sums round differently with another number.

    Raises:
        ModelError: If a value is unknown or out of range.
    """

    epochs: int = 8
    lr: float = 0.02
    batch_size: int = 64
    alpha: float = 1.0
    beta: float | None = None
    directions: int = 3
    regression_steps: int = 400
    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0:
            raise ModelError(f"epochs must not be negative, got {self.epochs}")
        for name in ("batch_size", "directions", "regression_steps", "threads"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "alpha"):
            check_positive(name, getattr(self, name))
        if self.beta is not None:
            check_positive("beta", self.beta)


def check_words(settings: object, owner: type) -> None:
    """Check the fields of a class that may only be certain words.

    Raises:
        ModelError: If one is another word.
    """
    for field in fields(owner):
        value = getattr(settings, field.name)
        known = get_args(field.type) if get_origin(field.type) is Literal else ()
        if known and value not in known:
            raise ModelError(f"{field.name}: no {value!r}; {nearest(str(value), known)}")


def check_positive(name: str, value: float) -> None:
    """Check a number.

    Raises:
        ModelError: If it is not positive and finite.
    """
    if not 0 < value < math.inf:
        raise ModelError(f"{name} must be a positive number, got {value}")
