"""What is measured in a study: the network, the images, the quantizer and the prices.

It is built once, in the driver, and sent to every process that measures. Weights and images are
numpy arrays, so that Ray's object store hands them to the processes of a node without a copy.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..energy import EnergyModel
from ..models.checkpoint import load_checkpoint
from ..models.config import AdaptationConfig, QuantizerConfig
from ..models.data import load_data
from ..models.images import ImageSet
from ..models.locate import resolve_checkpoint
from ..models.profile import profile
from ..models.quantized import QuantizedModel
from ..models.splits import Splits
from ..models.train import TrainProgress, trained_model
from ..models.zoo import build_model
from ..searchers import Pricing
from ..spaces import BitSpace, Layer, Split, StudyError
from .adapting import adaptation_notes, require_adaptable
from .checks import price_space, require_training_images
from .progress import ProgressCallback, ProgressEvent
from .sections import EngineKind, ModelSpec
from .spec import StudySpec

EVALUATION_VERSION = 3
"""Part of every workload's digest: raise it when the same request gets other numbers than before,
so that nothing measured by older code is taken for new."""

FINE_TUNING_VERSION = 2
"""The same for requests that the network is fine-tuned for, which alone then get other numbers."""


@dataclass(frozen=True)
class Architecture:
    """How to build the network that the weights belong to; arguments of `build_model`."""

    name: str
    classes: int
    input_shape: tuple[int, int, int]
    kwargs: Mapping[str, Any]
    seed: int

    def build(self) -> nn.Module:
        """Return the network with its initial weights."""
        return build_model(
            self.name,
            classes=self.classes,
            input_shape=self.input_shape,
            kwargs=self.kwargs,
            seed=self.seed,
        )


@dataclass(frozen=True, eq=False)
class Workload:
    """All that an evaluation depends on, besides the allocation; also a `searchers.ModelSource`.

    Attributes:
        architecture: How the network is built.
        state: Its weights and buffers by name.
        layers: Its quantizable layers.
        images: Images by split; on the calibration split the quantizers are calibrated.
        quantizer: How ranges are chosen.
        batch_size: Images per forward pass; sums round differently with another.
        energy: Prices the allocations.
        engine: What computes; integer kernels, or the reference; sums beyond 2^24 differ.
        adaptation: What happens to the network for an allocation before that is measured.
        fine_tuning: Images that it is fine-tuned on; None if it is not.
        train: Images that strategies train it on, no part of what an evaluation depends on; None if
            none does.
    """

    architecture: Architecture
    state: Mapping[str, npt.NDArray[Any]]
    layers: tuple[Layer, ...]
    images: Mapping[Split, ImageSet]
    quantizer: QuantizerConfig
    batch_size: int
    energy: EnergyModel
    engine: EngineKind = "integer"
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    fine_tuning: ImageSet | None = None
    train: ImageSet | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        architecture: Architecture,
        splits: Splits,
        energy: EnergyModel,
        *,
        quantizer: QuantizerConfig,
        batch_size: int,
        engine: EngineKind = "integer",
        adaptation: AdaptationConfig | None = None,
        trains: bool = False,
    ) -> "Workload":
        """Put together what an evaluation depends on.

        Args:
            model: The network with its weights.
            architecture: How it was built.
            splits: The images.
            energy: Prices allocations on the network's layers.
            quantizer: How ranges are chosen.
            batch_size: Images per forward pass.
            engine: What computes.
            adaptation: What happens to the network for an allocation; nothing if None.
            trains: Whether strategies train the network.
        """
        adaptation = adaptation or AdaptationConfig()
        fine_tuning = None
        if adaptation.method == "fine-tune":
            count = adaptation.images
            fine_tuning = splits.train if count is None else splits.train_beginning(count)
        return cls(
            architecture,
            {name: tensor.numpy() for name, tensor in model.state_dict().items()},
            tuple(energy.layers),
            {"calibration": splits.calibration, "search": splits.search, "test": splits.test},
            quantizer,
            batch_size,
            energy,
            engine,
            adaptation,
            fine_tuning,
            splits.train if trains else None,
        )

    @cached_property
    def digest(self) -> str:
        """A hexadecimal name of what decides accuracies: content only, no paths and no prices."""
        facts = [
            EVALUATION_VERSION,
            dataclasses.asdict(self.architecture),
            dataclasses.asdict(self.quantizer),
            self.batch_size,
            self.engine,
            {split: images.digest for split, images in self.images.items()},
            [layer.name for layer in self.layers],
        ]
        if self.adaptation.method != "none":  # without, what older code has measured still counts
            facts.append(dataclasses.asdict(self.adaptation))
        if self.fine_tuning is not None:
            facts += [FINE_TUNING_VERSION, self.fine_tuning.digest]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, array in self.state.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    @property
    def size_bytes(self) -> int:
        """Bytes of weights and images."""
        further = [images for images in (self.fine_tuning, self.train) if images is not None]
        return sum(array.nbytes for array in self.state.values()) + sum(
            images.images.nbytes + images.labels.nbytes
            for images in (*self.images.values(), *further)
        )

    @property
    def device(self) -> str:
        """Where a strategy in the driver's process trains: GPUs are shared out among others."""
        return "cpu"

    def float_model(self, initial: bool = False) -> nn.Module:
        """Return the network in evaluation mode, with its weights or the initial ones."""
        model = self.architecture.build()
        if not initial:
            model.load_state_dict({name: torch.tensor(array) for name, array in self.state.items()})
        return model

    def training(self) -> ImageSet:
        """Return the images that strategies train the network on.

        Raises:
            StudyError: If none were loaded.
        """
        if self.train is None:
            raise StudyError(
                "this study loaded no images to train on; set trains = True on the strategy's class"
            )
        return self.train

    def quantized_model(self, *, repaired: bool = True) -> QuantizedModel:
        """Return a fresh, calibrated copy of the network.

        Args:
            repaired: Whether its weights and biases are repaired, if the quantizer asks for that.
        """
        config = self.quantizer if repaired else self.quantizer.without_repairs
        model = QuantizedModel(self.float_model(), self.layers, config)
        model.calibrate(self.calibration())
        return model

    def calibration(self) -> list[tuple[Tensor, Tensor]]:
        """Return the calibration set as batches of images and labels."""
        return list(self.images["calibration"].batches(self.batch_size))

    @property
    def adaptation_images(self) -> ImageSet:
        """What the network sees while it is adapted to an allocation."""
        images = self.images["calibration"] if self.fine_tuning is None else self.fine_tuning
        return images.subset(np.arange(len(images))[: self.adaptation.images])


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study that is ready to run.

    Attributes:
        workload: What is measured.
        space: Which allocations there are.
        pricing: What they cost.
        one_part: Whether all splits were drawn from one set of images.
        notes: What a reader of the results should know of the data, and of adaptation.
    """

    workload: Workload
    space: BitSpace
    pricing: Pricing
    one_part: bool
    notes: tuple[str, ...]


def prepare(spec: StudySpec, progress: ProgressCallback | None = None) -> Prepared:
    """Load the data, check the study against its network, then load or train the weights.

    Nothing is written but trained weights, to their cache, and those only once everything that can
    be checked without them is in order.

    Args:
        spec: The study.
        progress: Told of the phases ``prepare`` and ``train``.

    Raises:
        InvalidStudyError: With the place in the file of what is wrong.
    """
    tell = progress or (lambda event: None)
    tell(ProgressEvent(phase="prepare"))
    with spec.at("data"):
        splits = load_data(spec.data)
    with spec.at("model"):
        architecture = Architecture(
            spec.model.name, splits.classes, splits.input_shape, spec.model.kwargs, spec.model.seed
        )
        model = architecture.build()
        layers = profile(model, splits.input_shape)
    with spec.at("adaptation"):
        require_adaptable(spec.adaptation, model, splits.indices)
    space, pricing = price_space(spec, layers)
    trains = require_training_images(spec, splits)
    with spec.at("model"):
        model = _with_weights(model, spec.model, splits, tell)
    workload = Workload.of(
        model,
        architecture,
        splits,
        pricing.energy,
        quantizer=spec.quantizer,
        batch_size=spec.execution.batch_size,
        engine=spec.execution.engine,
        adaptation=spec.adaptation,
        trains=trains,
    )
    follows_input = any(strategy.build().follows_input for strategy in spec.strategies)
    notes = adaptation_notes(
        spec.adaptation,
        len(workload.adaptation_images),
        trains=trains,
        follows_input=follows_input,
    )
    if follows_input and spec.quantizer.reconstruction != "none":
        notes += ("networks whose widths follow the input were tested without reconstruction",)
    return Prepared(workload, space, pricing, splits.indices.one_part, (*splits.notes, *notes))


def _with_weights(
    model: nn.Module, spec: ModelSpec, splits: Splits, tell: ProgressCallback
) -> nn.Module:
    """Return the network with the weights of its checkpoint, or trained."""
    if spec.checkpoint is not None:
        load_checkpoint(model, resolve_checkpoint(spec.checkpoint))
        return model

    def report(state: TrainProgress) -> None:
        tell(ProgressEvent(phase="train", done=state.step, total=state.steps))

    return trained_model(
        spec.name, splits, spec.train, kwargs=spec.kwargs, seed=spec.seed, progress=report
    )
