"""The integer engine against float32, torch's fake quantization and the reference path."""

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from bitfront.models.engine import Engine, kernels
from bitfront.models.engine.codes import code_grid, multiples_of, to_codes
from bitfront.models.engine.weights import PackedWeights
from bitfront.models.quantized import QuantizedModel
from bitfront.models.quantized_layers import QuantizedWeightLayer
from bitfront.spaces import Bits

from .cases import Loaded, folded_network, load
from .fake_quantize import fake_quantized
from .record import Entry
from .timing import interleaved

ALLOCATIONS = 50

Call = Callable[[], object]


def speed(name: str) -> dict[str, Entry]:
    """Measure the forward pass of one batch by every path, in turns.

    Args:
        name: Case.
    """
    loaded = load(name)
    x = loaded.batch
    reference = loaded.quantized()
    floats = {
        **dict(_in_both_formats("as built", loaded.network, x)),
        **dict(_in_both_formats("batch norm folded", folded_network(reference), x)),
    }
    simulated = dict(_in_both_formats("fake quantize", fake_quantized(reference), x))
    reference.set_allocation(loaded.uniform)
    engine = Engine(loaded.quantized(), x[:4])
    (mixed,) = loaded.allocations(1)
    quantized: dict[str, Call] = {
        "reference": lambda: reference(x),
        "engine": partial(engine.prepare([loaded.uniform]), x),
        "mixed": partial(engine.prepare([mixed]), x),
    }
    with torch.inference_mode():
        timings = interleaved(floats | simulated | quantized)
    fp32, fake = timings.fastest([*floats]), timings.fastest([*simulated])
    entries = {
        "vs_fp32": timings.times_as_fast("engine", fp32, note=fp32),
        "mixed_vs_fp32": timings.times_as_fast("mixed", fp32),
        "vs_fake_quantize": timings.times_as_fast("engine", fake, note=fake),
        "vs_reference": timings.times_as_fast("engine", "reference"),
    }
    for key, variant in {
        "": "engine",
        "mixed_": "mixed",
        "fp32_": fp32,
        "fake_quantize_": fake,
        "reference_": "reference",
    }.items():
        entries[f"{key}images_per_s"] = timings.rate(variant, len(x), "/s")
    return {f"engine.{name}.{key}": entry for key, entry in entries.items()}


def agreement(name: str) -> dict[str, Entry]:
    """Count how often the engine predicts what the reference predicts, at random allocations.

    Args:
        name: Case.
    """
    loaded = load(name)
    reference, images = loaded.quantized(), loaded.images
    engine = Engine(loaded.quantized(), loaded.batch[:4])
    same, gained, prepared_ms = [], [], []
    with torch.inference_mode():
        for allocation in loaded.allocations(ALLOCATIONS):
            reference.set_allocation(allocation)
            started = time.perf_counter()
            run = engine.prepare([allocation])
            run(loaded.batch[:1])  # weights are packed when they are first used
            prepared_ms.append(1000 * (time.perf_counter() - started))
            for x, labels in images.batches(loaded.case.batch):
                expected = reference(x).argmax(dim=1)
                found = run(x)[0].argmax(dim=1)
                same.append(found == expected)
                gained.append((found == labels).double() - (expected == labels).double())
        error, layers = _layer_error(loaded, reference)
    agrees, difference = torch.cat(same), torch.cat(gained)
    pairs = len(agrees)
    seen = ", ".join([f"{len(images)} images", *([loaded.note] if loaded.note else [])])
    entries = {
        "agreement": Entry.of(100 * float(agrees.double().mean()), "%", pairs, note=seen),
        "layer_error": Entry.of(error, "", layers, note="mixed widths"),
        "prepare_ms": Entry.median_of(prepared_ms, "ms"),
    }
    if loaded.is_trained and loaded.is_real:
        points = 100 * float(difference.mean())
        entries["accuracy_difference"] = Entry.of(points, "points", pairs, note=seen)
    return {f"engine.{name}.{key}": entry for key, entry in entries.items()}


def _in_both_formats(name: str, network: nn.Module, x: Tensor) -> Iterator[tuple[str, Call]]:
    """Yield the forward pass of a copy of the network in each memory format."""
    for suffix, memory_format in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        placed = copy.deepcopy(network).to(memory_format=memory_format)
        batch = x.contiguous(memory_format=memory_format)
        yield f"{name}, {suffix}", partial(placed, batch)


def _layer_error(loaded: Loaded, reference: QuantizedModel) -> tuple[float, int]:
    """Return the largest relative error of a layer in the kernels, and how many were compared.

    At random mixed widths; both compute with the codes of the input the layer has in the reference.
    """
    (allocation,) = loaded.allocations(1)
    weights = PackedWeights(limit_bytes=0)
    errors: list[float] = []

    def compare(weight_bits: Bits, activation_bits: Bits) -> Callable[..., None]:
        def hook(layer: QuantizedWeightLayer, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            grid = code_grid(
                layer.left.grid(activation_bits), activation_bits, layer.left.channel_axis
            )
            codes = to_codes(inputs[0], grid)
            packed, inner = weights.get(layer, weight_bits, grid), layer.inner
            if isinstance(inner, nn.Conv2d):
                found = kernels.conv(codes, grid, packed, inner, "none", None)
            else:
                bias: Tensor | None = inner._parameters["bias"]
                found = kernels.linear(codes, grid, packed, bias, "none", None)
            whole = multiples_of(codes, grid)
            expected = layer.whole_product(whole, grid.scale, layer.weight_codes(weight_bits))
            errors.append(float((found - expected).norm() / expected.norm()))

        return hook

    reference.set_allocation(allocation)
    widths = zip(allocation.weights, allocation.activations, strict=True)
    handles = [
        layer.register_forward_hook(compare(*bits))
        for layer, bits in zip(reference.quantized_layers.values(), widths, strict=True)
        if isinstance(layer, QuantizedWeightLayer) and kernels.supports(layer) is None
    ]
    reference(loaded.batch[:4])
    for handle in handles:
        handle.remove()
    return max(errors), len(errors)
