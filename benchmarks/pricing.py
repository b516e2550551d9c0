"""How long pricing takes: a million allocations of 50 layers must take less than 2 seconds.

Run: ``python benchmarks/pricing.py``; prints JSON.
"""

import json
import time

import numpy as np

from bitfront.energy import EnergyModel, load_table
from bitfront.spaces import BitAllocation, Layer

LAYERS = 50
ALLOCATIONS = 1_000_000
SCALAR = 1_000


def network(layers: int) -> list[Layer]:
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


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    rng = np.random.default_rng(0)
    layers = network(LAYERS)
    model = EnergyModel(load_table("horowitz-45nm"), layers)
    bits = rng.integers(2, 9, size=(2, ALLOCATIONS, LAYERS), dtype=np.uint8)
    wide = bits.astype(np.int64)
    names = [layer.name for layer in layers]
    some = [
        BitAllocation(names, w.tolist(), a.tolist()) for w, a in bits[:, :SCALAR].swapaxes(0, 1)
    ]
    model.price_many(bits[0, :1000], bits[1, :1000])  # fills the caches
    result = {
        "allocations": ALLOCATIONS,
        "layers": LAYERS,
        "price_many_uint8_s": min(seconds(lambda: model.price_many(*bits)) for _ in range(3)),
        "price_many_int64_s": seconds(lambda: model.price_many(*wide)),
        "energy_one_s": seconds(lambda: [model.energy(a) for a in some]) / SCALAR,
        "costs_one_s": seconds(lambda: [model.costs(a) for a in some]) / SCALAR,
        "price_one_s": seconds(lambda: [model.price(a) for a in some]) / SCALAR,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
