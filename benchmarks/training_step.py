"""A step of EQAT against a step of plain training of the same network."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bitfront.energy import EnergyModel, load_table
from bitfront.models.allocator import keep_freed_memory
from bitfront.models.config import QuantizerConfig
from bitfront.models.images import ImageSet
from bitfront.models.optimizers import make_optimizer
from bitfront.models.profile import profile
from bitfront.models.qat.config import QatSettings
from bitfront.models.qat.learned import LearnedSigmoid
from bitfront.models.qat.network import TrainableNetwork
from bitfront.models.qat.trainer import Trainer
from bitfront.models.qat.widths import SigmoidWidths
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitSpace, Layer

from .record import Entry
from .timing import interleaved
from .training import FORMATS

SHAPES = {"resnet20": (3, 32, 32), "cnn5": (1, 28, 28)}
BATCH = 128
CLASSES = 10
MANY_EPOCHS = 10_000


def measure(name: str) -> dict[str, Entry]:
    """Measure steps of 128 images in turns, by the processor's time, on one thread.

    The step of EQAT has both passes, learned widths that are rounded, learned ranges and the energy
    in the loss; the plain one has the cross-entropy. Both take Adam's steps and fetch their images.

    Args:
        name: The network, which has random weights and images of noise.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    shape = SHAPES[name]
    network = build_model(name, classes=CLASSES, input_shape=shape)
    images = _noise(shape)
    variants: dict[str, Callable[[], object]] = {
        "EQAT": partial(_trainer(network, profile(network, shape), images).run_epoch, lambda _: 0.1)
    }
    for suffix, memory_format in FORMATS.items():
        plain = build_model(name, classes=CLASSES, input_shape=shape).train()
        optimizer = make_optimizer(plain.parameters(), "adam", 1e-3)
        plain = plain.to(memory_format=memory_format)
        variants[f"plain, {suffix}"] = partial(_step, plain, optimizer, images, memory_format)
    timings = interleaved(variants)
    cpu_s = {name: [one.cpu_s for one in samples] for name, samples in timings.samples.items()}
    plain_name = min((f"plain, {suffix}" for suffix in FORMATS), key=lambda n: median(cpu_s[n]))
    ratios = [ours / plain for ours, plain in zip(cpu_s["EQAT"], cpu_s[plain_name], strict=True)]
    prefix = f"training.{name}"
    note = f"{plain_name}; {BATCH} images, CPU time"
    return {
        f"{prefix}.eqat_vs_plain": Entry.median_of(
            ratios, "x", note=note, disturbed=timings.disturbed
        ),
        f"{prefix}.eqat_images_per_s": timings.rate("EQAT", BATCH, "images/s"),
    }


def _trainer(network: nn.Module, layers: Sequence[Layer], images: ImageSet) -> Trainer:
    """Return a trainer of one step per epoch."""
    settings = QatSettings(epochs=MANY_EPOCHS, batch_size=BATCH, optimizer="adam", alpha=0.8)
    calibration = [images.batch(slice(0, BATCH))]
    reference = QuantizedModel(network, layers, QuantizerConfig().for_training)
    reference.calibrate(calibration)
    trainable = TrainableNetwork(network, reference, settings)
    trainer = Trainer(trainable, images, calibration, settings, seed=0)
    energy = EnergyModel(load_table("horowitz-45nm"), layers)
    widths = SigmoidWidths(BitSpace.build(layers))
    learned = LearnedSigmoid(widths, energy.price_torch, energy.w8a8)
    trainer.learn_widths(learned, optimizer="adam", lr=1e-3, epochs=MANY_EPOCHS)
    return trainer


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: ImageSet,
    memory_format: torch.memory_format,
) -> None:
    x, labels = images.batch(np.random.default_rng(0).permutation(BATCH))
    loss = cross_entropy(network(x.contiguous(memory_format=memory_format)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _noise(shape: tuple[int, int, int]) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((BATCH, *shape), dtype=np.float32)
    channels = shape[0]
    return ImageSet(pixels, np.arange(BATCH) % CLASSES, (0.0,) * channels, (1.0,) * channels)
