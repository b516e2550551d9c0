"""Settings of data, training and quantizers; light, to check a study without loading torch."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin

from ..spaces import DataError, ModelError, nearest

DATA_NAMES = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "oxford-pets",
    "image-folder",
)

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]
OptimizerName = Literal["sgd", "adam", "adamw", "adadelta"]
Schedule = Literal["constant", "cosine"]
Augmentation = Literal["none", "crop", "crop-flip"]
WeightObserver = Literal["minmax", "mse", "output-mse"]
ActivationScheme = Literal["affine", "symmetric"]
ActivationObserver = Literal["minmax", "percentile", "mse", "kl"]
Rounding = Literal["nearest", "adaround"]
Reconstruction = Literal["none", "brecq", "qdrop"]
AdaptationMethod = Literal["none", "batch-norm", "fine-tune"]
AdaptedMeasurements = Literal["evaluations", "finalists"]
ScoreKind = Literal[
    "output-l2", "mse", "cosine", "sqnr", "kl", "loss", "fisher", "taylor", "hessian"
]


def data_names() -> list[str]:
    """Return the names of the data sets that `load_data` knows."""
    return list(DATA_NAMES)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images a study uses, and how many of them for what.

    Attributes:
        name: One of `data_names`; ``digits`` needs no files.
        root: Folder that holds the data: torchvision's root, or for ``image-folder`` the folder of
            the class folders. The environment variable ``BITFRONT_DATA`` if None; a relative
            folder that is not under the working directory is looked for there too.
        calibration_images: Images that observers and sensitivities see; part of the training set.
        search_images: Images that searches are scored on; if None, a fifth of the training part
            but at most 2,000, or two fifths of what calibration leaves where there is one part.
        search_part: Part of the data set that search images are from. A network that was trained
            on the whole training part is too sure of it: with ``test`` they are images it never
            saw, and the test split is what they leave of the test part.
        test_images: Images that results are reported on; all there are if None.
        image_size: Side of the square images; None for the native size (224 for photographs).
        mean: Mean per channel of the normalisation, on the scale 0 to 1; the usual one if None.
        std: Standard deviation per channel; the usual one if None.
        crop_pct: Side of the centre crop over the resized short side; 0.875 for photographs and 1
            for the small images if None.
        interpolation: How images are resized.
        seed: Seed of the draw of the splits.

    Raises:
        DataError: If a value is out of range.
    """

    name: str = "digits"
    root: str | None = None
    calibration_images: int = 256
    search_images: int | None = None
    search_part: Literal["train", "test"] = "train"
    test_images: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: Interpolation = "bicubic"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in DATA_NAMES:
            raise DataError(f"unknown data set {self.name!r}; {nearest(self.name, DATA_NAMES)}")
        for field in ("calibration_images", "search_images", "test_images", "image_size"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise DataError(f"{field} must be at least 1, got {value}")
        if self.search_part not in ("train", "test"):
            raise DataError(f"search_part must be 'train' or 'test', got {self.search_part!r}")
        if self.seed < 0:
            raise DataError(f"seed must not be negative, got {self.seed}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise DataError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct}")
        if self.interpolation not in get_args(Interpolation):
            raise DataError(
                f"unknown interpolation {self.interpolation!r}; "
                f"{nearest(self.interpolation, get_args(Interpolation))}"
            )
        if self.std is not None and not all(value > 0 for value in self.std):
            raise DataError(f"std must be positive, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; the last, smaller batch of an epoch is left out.
        optimizer: ``sgd`` (momentum 0.9), ``adam``, ``adamw`` or ``adadelta``.
        lr: Learning rate, at the end of the warm-up.
        weight_decay: Factor of the optimizer's own weight decay.
        schedule: ``constant``, or ``cosine`` down to 0.
        warmup_epochs: Epochs over which the learning rate rises linearly; may be a fraction.
        label_smoothing: Share of the label spread over all classes.
        augment: ``none``, ``crop`` (shifts by up to an eighth of the side) or ``crop-flip``.
        seed: Seed of the order of images, of augmentation and of dropout.
        threads: Threads of torch. Sums round differently with another number: it is fixed here so
            that the same settings give the same weights.

    Raises:
        ModelError: If a value is out of range.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: OptimizerName = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    augment: Augmentation = "none"
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "threads"):
            if getattr(self, field) < 1:
                raise ModelError(f"train.{field} must be at least 1, got {getattr(self, field)}")
        for field in ("weight_decay", "warmup_epochs", "seed"):
            if not getattr(self, field) >= 0:
                raise ModelError(f"train.{field} must not be negative, got {getattr(self, field)}")
        if not 0 < self.lr < math.inf:
            raise ModelError(f"train.lr must be a positive number, got {self.lr}")
        if not 0 <= self.label_smoothing < 1:
            raise ModelError(f"train.label_smoothing must be in [0, 1), got {self.label_smoothing}")
        for field, allowed in (
            ("optimizer", get_args(OptimizerName)),
            ("schedule", get_args(Schedule)),
            ("augment", get_args(Augmentation)),
        ):
            if (value := getattr(self, field)) not in allowed:
                raise ModelError(f"unknown train.{field} {value!r}; {nearest(value, allowed)}")


@dataclass(frozen=True)
class QuantizerConfig:
    """How ranges are chosen and what is repaired; the same for every strategy of a comparison.

    Attributes:
        weight_observer: Per output channel, ``minmax`` takes max|w|, ``mse`` the range with the
            smallest squared error of the weights, ``output-mse`` that with the smallest squared
            error of the layer's output on the calibration images.
        activation_scheme: ``affine`` or ``symmetric``, per tensor.
        activation_observer: How the range of an activation follows from the calibration images.
        percentile: Of ``activation_observer="percentile"``: the share of values, in percent, that
            lies below the upper (and, mirrored, above the lower) end of the range.
        equalization: Whether the weight ranges of neighbouring layers are made alike before
            anything is observed (cross-layer equalization; arXiv:1906.04721).
        smoothing: Share of the spread of activations that is moved into the weights of linear
            layers behind a layer norm, 0 to 1 (SmoothQuant's alpha; arXiv:2211.10438); None for no
            smoothing.
        bias_correction: Whether the mean error that quantized weights cause in a layer's output is
            taken off its bias (arXiv:1906.04721).
        rounding: ``nearest``, or ``adaround``: up or down as it disturbs the layer's output least
            (arXiv:2004.10568).
        reconstruction: How the weights of a single allocation are fitted to the float network block
            by block, before its results are reported: ``brecq`` (arXiv:2102.05426), ``qdrop``
            (arXiv:2203.05740), or ``none``.
        reconstruction_steps: Steps of the optimizer, by block.

    Raises:
        ModelError: If a setting has no such value.
    """

    weight_observer: WeightObserver = "mse"
    activation_scheme: ActivationScheme = "affine"
    activation_observer: ActivationObserver = "percentile"
    percentile: float = 99.99
    equalization: bool = False
    smoothing: float | None = None
    bias_correction: bool = False
    rounding: Rounding = "nearest"
    reconstruction: Reconstruction = "none"
    reconstruction_steps: int = 400

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            known = get_args(field.type) if get_origin(field.type) is Literal else ()
            if known and value not in known:
                raise ModelError(f"{field.name}: no {value!r}; {nearest(str(value), known)}")
        if not 50 < self.percentile <= 100:
            raise ModelError(f"percentile must lie in (50, 100], got {self.percentile!r}")
        if self.smoothing is not None and not 0 <= self.smoothing <= 1:
            raise ModelError(f"smoothing must lie in [0, 1], got {self.smoothing!r}")
        if self.reconstruction_steps < 1:
            raise ModelError(
                f"reconstruction_steps must be at least 1, got {self.reconstruction_steps!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return asdict(self)

    @property
    def needs_images(self) -> bool:
        """Whether calibration images are needed again after they were observed."""
        return self.smoothing is not None or self.repairs_weights

    @property
    def repairs_weights(self) -> bool:
        """Whether weights and biases are repaired width by width."""
        by_output = self.weight_observer == "output-mse"
        return by_output or self.bias_correction or self.rounding != "nearest"

    @property
    def without_repairs(self) -> "QuantizerConfig":
        """The same but for repairs of weights and biases, which trained weights do not keep."""
        by_output = self.weight_observer == "output-mse"
        observer: WeightObserver = "mse" if by_output else self.weight_observer
        return replace(self, weight_observer=observer, bias_correction=False, rounding="nearest")

    @property
    def for_training(self) -> "QuantizerConfig":
        """The same, with nothing changed in the network but that its batch norms are folded."""
        return replace(self.without_repairs, equalization=False, smoothing=None)

    @property
    def digest(self) -> str:
        """A hexadecimal name of the settings, the same in every process and version."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """What happens to the network for an allocation before that is measured; see `adaptation`.

    Attributes:
        method: ``none``; ``batch-norm`` estimates the statistics of batch norms again;
            ``fine-tune`` trains weights and biases by stochastic gradient descent.
        when: Before all ``evaluations``, or only before ``finalists`` are measured on the test
            split.
        images: How many calibration images ``batch-norm`` sees, or training images an epoch of
            ``fine-tune`` has; all if None.
        epochs: Of fine-tuning: passes over the images.
        lr: Of fine-tuning: learning rate.
        momentum: Of fine-tuning: share of the last step that the next goes on with.
        weight_decay: Of fine-tuning: factor of the decay of weights and biases.
        batch_size: Of fine-tuning: images per step.

    Raises:
        ModelError: If a value is unknown or out of range.
    """

    method: AdaptationMethod = "none"
    when: AdaptedMeasurements = "evaluations"
    images: int | None = None
    epochs: int = 1
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 4e-5
    batch_size: int = 64

    def __post_init__(self) -> None:
        for field, allowed in (
            ("method", get_args(AdaptationMethod)),
            ("when", get_args(AdaptedMeasurements)),
        ):
            if (value := getattr(self, field)) not in allowed:
                raise ModelError(f"adaptation.{field}: no {value!r}; {nearest(value, allowed)}")
        for field in ("images", "epochs", "batch_size"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise ModelError(f"adaptation.{field} must be at least 1, got {value}")
        if not 0 < self.lr < math.inf:
            raise ModelError(f"adaptation.lr must be a positive number, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ModelError(f"adaptation.momentum must lie in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ModelError(
                f"adaptation.weight_decay must not be negative, got {self.weight_decay}"
            )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How sensitivity scores are computed; see `bitfront.models.sensitivity`.

    Attributes:
        kind: What is computed.
        images: How many of the calibration images are used; all if None.
        seed: Of ``hessian``: seed of the random vectors.
        iterations: Of ``hessian``: most random vectors.
        tolerance: Of ``hessian``: the relative change of the running mean at which it ends.

    Raises:
        ModelError: If a value is unknown or out of range.
    """

    kind: ScoreKind = "kl"
    images: int | None = None
    seed: int = 0
    iterations: int = 100
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScoreKind):
            raise ModelError(f"no score {self.kind!r}; {nearest(self.kind, get_args(ScoreKind))}")
        if self.images is not None and self.images < 1:
            raise ModelError(f"the images of a score must be at least 1, got {self.images}")
        if self.seed < 0 or self.iterations < 1 or not self.tolerance >= 0:
            raise ModelError(
                "a score needs seed >= 0, iterations >= 1 and tolerance >= 0, got "
                f"{self.seed}, {self.iterations} and {self.tolerance}"
            )
