"""Settings of training with quantized layers; light, for strategies to have as their fields."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from ...spaces import ModelError, nearest
from ..config import Augmentation, OptimizerName, Schedule

WeightRanges = Literal["lsq", "minmax"]
ActivationRanges = Literal["lsq", "pact", "minmax"]
Start = Literal["trained", "initial"]
Teacher = Literal["self", "trained"]
Arithmetic = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class QatSettings:
    """How a network is trained with quantized layers.

    Attributes:
        epochs: Passes over the images, all told.
        images: Training images that take part; all if None.
        batch_size: Images per step.
        optimizer: What takes the steps of weights and biases.
        lr: Its learning rate.
        schedule: ``cosine`` to zero over all epochs, or ``constant``.
        weight_decay: Factor of the decay of weights and biases.
        augment: ``none``, ``crop`` or ``crop-flip``.
        start: The weights to begin with: the study's ``trained`` ones, or its ``initial`` ones.
        alpha: Factor of KL(quantized || full precision) in the loss; 0 saves its forward pass.
        teacher: Who is the full precision: the network ``self`` without its quantizers, as it is at
            that step, or the study's ``trained`` float network.
        weight_ranges: Largest magnitude of the weights of a channel: learned (``lsq``), or that of
            the weights (``minmax``).
        activation_ranges: Ends of the activations: learned by the error they cause (``lsq``), by
            what they clip alone (``pact``), or a moving average of the extremes (``minmax``).
        range_lr: Learning rate of learned ranges, which are learned by Adam in their logarithm.
        arithmetic: Type in which products of the passes are computed; quantizers and losses stay in
            float32.
        coreset_fraction: Share of the images that an epoch trains on, chosen anew every few epochs
            for what is to be learned of them.
        coreset_every: Epochs after which it is chosen anew.
        threads: Threads of torch on the CPU; sums round differently with another number.

    Raises:
        ModelError: If a value is unknown or out of range.
    """

    epochs: int = 30
    images: int | None = None
    batch_size: int = 128
    optimizer: OptimizerName = "adam"
    lr: float = 1e-3
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    augment: Augmentation = "none"
    start: Start = "trained"
    alpha: float = 0.8
    teacher: Teacher = "self"
    weight_ranges: WeightRanges = "lsq"
    activation_ranges: ActivationRanges = "lsq"
    range_lr: float = 1e-3
    arithmetic: Arithmetic = "float32"
    coreset_fraction: float = 1.0
    coreset_every: int = 5
    threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(QatSettings):
            value = getattr(self, field.name)
            known = get_args(field.type) if get_origin(field.type) is Literal else ()
            if known and value not in known:
                raise ModelError(f"{field.name}: no {value!r}; {nearest(str(value), known)}")
        for name in ("epochs", "images", "batch_size", "coreset_every", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ModelError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "range_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ModelError(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("alpha", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ModelError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.coreset_fraction <= 1:
            raise ModelError(f"coreset_fraction must lie in (0, 1], got {self.coreset_fraction}")
