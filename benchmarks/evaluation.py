"""What keeping freed memory gains: one forward pass of a quantized network before and after."""

import json
import statistics
import time

import torch

from bitfront.models.allocator import keep_freed_memory
from bitfront.models.config import QuantizerConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation

CASES = {
    "resnet20": ("resnet20", (3, 32, 32), 256),
    "efficientnet_lite0": ("timm:tf_efficientnet_lite0", (3, 224, 224), 32),
}
PASSES = 9


def quantized(name: str, shape: tuple[int, int, int]) -> QuantizedModel:
    classes = 10 if shape[1] == 32 else 1000
    network = build_model(name, classes=classes, input_shape=shape)
    layers = profile(network, shape)
    model = QuantizedModel(network, layers, QuantizerConfig())
    model.calibrate([torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))])
    model.set_allocation(BitAllocation.uniform(layers, 8))
    return model


@torch.inference_mode()
def seconds(model: QuantizedModel, images: torch.Tensor) -> float:
    """Return the median CPU time of a pass, after three to warm up."""
    found = []
    for _ in range(3 + PASSES):
        started = time.process_time()
        model(images)
        found.append(time.process_time() - started)
    return statistics.median(found[3:])


def main() -> None:
    torch.set_num_threads(1)
    cases = {
        name: (quantized(model, shape), torch.randn(batch, *shape))
        for name, (model, shape, batch) in CASES.items()
    }
    # The setting cannot be taken back, so all of before comes before all of after.
    before = {name: seconds(*case) for name, case in cases.items()}
    keep_freed_memory()
    gains = {name: before[name] / seconds(*case) for name, case in cases.items()}
    print(json.dumps({f"evaluation.{name}.allocator_gain": gain for name, gain in gains.items()}))


if __name__ == "__main__":
    main()
