"""A step of quantization-aware training against float32 and torch's fake quantization."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .cases import folded_network, load
from .fake_quantize import fake_quantized
from .record import Entry
from .timing import interleaved

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def step(name: str) -> dict[str, Entry]:
    """Measure forward and backward of one batch, in turns.

    Weights and activations have 8 bits; the time does not depend on the width.

    Args:
        name: Case.
    """
    loaded = load(name)
    x = loaded.batch
    labels = torch.arange(len(x)) % 10
    quantized = loaded.quantized()
    quantized.set_allocation(loaded.uniform)
    variants: dict[str, Callable[[], None]] = {"quantized": _step(quantized, x, labels)}
    for suffix, memory_format in FORMATS.items():
        batch = x.contiguous(memory_format=memory_format)
        for kind, make in (("fp32", folded_network), ("fake quantize", fake_quantized)):
            network = make(quantized).to(memory_format=memory_format)
            variants[f"{kind}, {suffix}"] = _step(network, batch, labels)
    timings = interleaved(variants)
    fp32 = timings.fastest([f"fp32, {suffix}" for suffix in FORMATS])
    fake = timings.fastest([f"fake quantize, {suffix}" for suffix in FORMATS])
    prefix = f"training.{name}"
    return {
        f"{prefix}.vs_fp32": timings.times_as_fast("quantized", fp32, note=fp32),
        f"{prefix}.vs_fake_quantize": timings.times_as_fast("quantized", fake, note=fake),
        f"{prefix}.images_per_s": timings.rate("quantized", len(x), "images/s"),
    }


def _step(network: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], None]:
    return partial(_forward_and_backward, network.train(), x, labels)


def _forward_and_backward(network: nn.Module, x: Tensor, labels: Tensor) -> None:
    network.zero_grad()
    cross_entropy(network(x), labels).backward()
