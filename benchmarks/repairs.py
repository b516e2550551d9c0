"""What repairs are worth: accuracy at uniform widths with each of them, on the whole test split.

    BITFRONT_DATA=... BITFRONT_WEIGHTS=... python -m benchmarks.repairs

The published ResNet-20 on CIFAR-10: first and last layer at 8 bits, inputs at 8 bits, 256
calibration images, ranges of least squared error, one thread. About ten minutes.
"""

import time
from typing import Any

import torch

from bitfront.models import (
    DataConfig,
    QuantizerConfig,
    build_model,
    load_checkpoint,
    load_data,
    resolve_checkpoint,
)
from bitfront.models.engine import Engine
from bitfront.models.evaluate import evaluate_each
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation

WIDTHS = (2, 3, 4, 6)
ADAROUND = {"rounding": "adaround"}
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "output-mse ranges": {"weight_observer": "output-mse"},
    "equalization": {"equalization": True},
    "bias correction": {"bias_correction": True},
    "adaround": ADAROUND,
    "adaround and bias correction": {**ADAROUND, "bias_correction": True},
    "all three": {**ADAROUND, "bias_correction": True, "equalization": True},
}


def main() -> None:
    """Print a line for each setting."""
    torch.set_num_threads(1)
    data = load_data(
        DataConfig(name="cifar10", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    )
    network = build_model("resnet20", classes=data.classes, input_shape=data.input_shape)
    load_checkpoint(network, resolve_checkpoint("cifar10_resnet20.safetensors"))
    layers = profile(network.eval(), data.input_shape)
    names = [layer.name for layer in layers]
    allocations = [
        BitAllocation(names, [8, *[bits] * (len(names) - 2), 8], [8] * len(names))
        for bits in WIDTHS
    ]
    example, _ = next(iter(data.calibration.batches(4)))
    print(f"{'repairs':30}{'seconds':>9}" + "".join(f"{f'w{bits}':>8}" for bits in WIDTHS))
    for name, settings in SETTINGS.items():
        config = QuantizerConfig(activation_observer="mse", **settings)
        model = QuantizedModel(network, layers, config)
        start = time.process_time()
        model.calibrate(data.calibration.batches(64))
        for allocation in allocations:
            model.set_allocation(allocation)
        seconds = time.process_time() - start
        counts = evaluate_each(Engine(model, example), allocations, data.test, 250)
        shares = "".join(f"{one.accuracy:8.2%}" for one in counts)
        print(f"{name:30}{seconds:9.1f}{shares}", flush=True)


if __name__ == "__main__":
    main()
