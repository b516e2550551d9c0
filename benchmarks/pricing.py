"""How long pricing takes: a million allocations of 50 layers must take less than 2 seconds."""

import numpy as np

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, Layer

from .record import Entry
from .timing import interleaved

LAYERS = 50
ALLOCATIONS = 1_000_000
ONE_BY_ONE = 100


def measure() -> dict[str, Entry]:
    """Price many allocations at once, and some one by one."""
    rng = np.random.default_rng(0)
    layers = _network(LAYERS)
    model = EnergyModel(load_table("horowitz-45nm"), layers)
    bits = rng.integers(2, 9, size=(2, ALLOCATIONS, LAYERS), dtype=np.uint8)
    names = [layer.name for layer in layers]
    some = [
        BitAllocation(names, w.tolist(), a.tolist()) for w, a in bits[:, :ONE_BY_ONE].swapaxes(0, 1)
    ]
    timings = interleaved(
        {
            "many": lambda: model.price_many(*bits),
            "one": lambda: [model.price(allocation) for allocation in some],
        }
    )
    rate = timings.rate("many", ALLOCATIONS, "/s")
    microseconds = [1e6 * sample.wall_s / ONE_BY_ONE for sample in timings.samples["one"]]
    return {
        "pricing.allocations_per_s": rate,
        "pricing.one_us": Entry.median_of(microseconds, "us", disturbed=timings.disturbed),
    }


def _network(layers: int) -> list[Layer]:
    return [
        Layer(
            name=f"layer{i}",
            kind="conv",
            macs=9 * 64 * 64 * 56 * 56,
            weight_count=9 * 64 * 64,
            bias_count=64,
            input_count=64 * 56 * 56,
            output_count=64 * 56 * 56,
            in_channels=64,
            out_channels=64,
            kernel=(3, 3),
            positions=56 * 56,
            input_size=(56, 56),
        )
        for i in range(layers)
    ]
