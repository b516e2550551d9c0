"""What keeping freed memory gains: the forward pass of a quantized network before and after."""

import torch

from bitfront.models.allocator import keep_freed_memory

from .cases import CASES, Loaded
from .record import Entry
from .timing import interleaved


def gain(name: str) -> dict[str, Entry]:
    """Measure the reference path, by CPU time.

    Args:
        name: Case.
    """
    torch.set_num_threads(1)
    loaded = Loaded(CASES[name])
    x = torch.cat([loaded.batch] * 2)  # batches as large as those of studies
    model = loaded.quantized()
    model.set_allocation(loaded.uniform)
    with torch.inference_mode():
        # The setting cannot be taken back, so all of before comes before all of after.
        before = interleaved({"pass": lambda: model(x)})
        keep_freed_memory()
        after = interleaved({"pass": lambda: model(x)})
    ratios = [
        old.cpu_s / new.cpu_s
        for old, new in zip(before.samples["pass"], after.samples["pass"], strict=True)
    ]
    return {f"evaluation.{name}.allocator_gain": Entry.median_of(ratios, "x", note="CPU time")}
