"""Quantize-dequantize and quantization to codes against torch's fake-quantize operator."""

from collections.abc import Callable

import torch
from torch import Tensor

from bitfront.models.allocator import keep_freed_memory
from bitfront.models.quantizers import fake_quantize, tensor_grid

from .record import Entry
from .timing import interleaved

SHAPE = (32, 64, 32, 32)


def measure() -> dict[str, Entry]:
    """Measure one activation of a residual network, forward in both formats and with gradients."""
    keep_freed_memory()
    torch.set_num_threads(1)
    grid = tensor_grid(-1.0, 3.0, 8, "affine")
    scale, zero_point = float(grid.scale), int(grid.zero_point)

    def ours(x: Tensor) -> Tensor:
        return fake_quantize(x, grid)

    def torchs(x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)

    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        forward = interleaved(
            {
                "contiguous": lambda: ours(x),
                "channels_last": lambda: ours(last),
                "torch contiguous": lambda: torchs(x),
                "torch channels_last": lambda: torchs(last),
            }
        )
    leaf = last.clone().requires_grad_()
    backward = interleaved(
        {"ours": lambda: _step(ours, leaf), "torch": lambda: _step(torchs, leaf)}
    )
    note = f"{list(SHAPE)}, 8 bits"
    return {
        "quantizer.contiguous.vs_torch": forward.times_as_fast(
            "contiguous", "torch contiguous", note
        ),
        "quantizer.channels_last.vs_torch": forward.times_as_fast(
            "channels_last", "torch channels_last", note
        ),
        "quantizer.gradients.vs_torch": backward.times_as_fast("ours", "torch", note),
    }


def _step(function: Callable[[Tensor], Tensor], leaf: Tensor) -> None:
    leaf.grad = None
    out = function(leaf)
    out.backward(torch.ones_like(out))
