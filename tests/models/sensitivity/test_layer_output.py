import numpy as np
import pytest
import torch

from bitfront.models import QuantizerConfig, build_model, quantized_layers
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.sensitivity import layer_output_l2
from bitfront.spaces import BitAllocation


@pytest.fixture(params=[("cnn5", (1, 8, 8)), ("vit_tiny_patch4", (1, 8, 8))], ids=lambda p: p[0])
def calibrated(request):
    name, input_shape = request.param
    model = build_model(name, classes=10, input_shape=input_shape)
    # A transformer's head starts at zero, where quantization changes nothing.
    *_, head = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    batches = list(torch.randn(3, 4, *input_shape, generator=torch.Generator().manual_seed(0)))
    quantized = QuantizedModel(model, profile(model, input_shape))
    quantized.calibrate(batches)
    return quantized, batches


def outputs(model, name, batches):
    """The outputs of a layer for all batches."""
    collected = []
    module = model.quantized_layers[name]
    handle = module.register_forward_hook(lambda module, args, out: collected.append(out))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    return torch.stack(collected).double()


@pytest.mark.parametrize(
    ("operands", "weight", "activation"),
    [("both", 3, 3), ("weight", 3, 32), ("activation", 32, 3)],
)
def test_one_pass_gives_what_quantizing_one_layer_at_a_time_gives(
    calibrated, operands, weight, activation
):
    model, batches = calibrated
    fast = layer_output_l2(model, batches, 3, operands=operands)
    floating = BitAllocation.uniform(model.layers, 32)
    for layer, value in zip(model.layers, fast, strict=True):
        model.set_allocation(None)
        full = outputs(model, layer.name, batches)
        model.set_allocation(floating.replace(layer.name, weight=weight, activation=activation))
        slow = (full - outputs(model, layer.name, batches)).norm().item()
        assert value == pytest.approx(slow, rel=1e-5)


def test_repairs_that_are_made_on_the_way_change_nothing():
    network = build_model("cnn5", classes=10, input_shape=(1, 8, 8))
    layers = profile(network, (1, 8, 8))
    batches = list(torch.randn(3, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)))

    def model():
        config = QuantizerConfig(rounding="adaround", bias_correction=True)
        made = QuantizedModel(network, layers, config)
        made.calibrate(batches)
        return made

    ready = model()
    for bits in (3, 4):
        ready.set_allocation(BitAllocation.uniform(ready.layers, bits))
    expected = layer_output_l2(ready, batches, [3, 4])
    np.testing.assert_array_equal(layer_output_l2(model(), batches, [3, 4]), expected)


def test_several_widths_come_from_one_pass(calibrated):
    model, batches = calibrated
    table = layer_output_l2(model, batches, [2, 4, 8])
    assert table.shape == (len(model.layers), 3)
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table[:, 1], layer_output_l2(model, batches, 4))
    assert (table[:, 0] > table[:, 1]).all() and (table[:, 1] > table[:, 2]).all()


def test_float_changes_nothing(calibrated):
    model, batches = calibrated
    assert (layer_output_l2(model, batches, 32) == 0).all()


def test_labels_are_ignored_and_the_allocation_is_restored(calibrated):
    model, batches = calibrated
    allocation = BitAllocation.uniform(model.layers, 4)
    model.set_allocation(allocation)
    pairs = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in batches]
    np.testing.assert_array_equal(
        layer_output_l2(model, pairs, 4), layer_output_l2(model, batches, 4)
    )
    assert model.allocation is allocation
    assert not any(module._forward_hooks for module in model.modules())


def test_ranges_and_weights_are_found_once_for_all_batches_and_allocations(calibrated, monkeypatch):
    model, batches = calibrated
    searched = {}
    for name in ("activation_range", "weight_fraction", "weight_grid"):
        calls = searched[name] = []
        real = getattr(quantized_layers, name)

        def counted(*args, calls=calls, real=real):
            calls.append(args)
            return real(*args)

        monkeypatch.setattr(quantized_layers, name, counted)
    matmuls = sum(layer.kind == "matmul" for layer in model.layers)
    operands, weights = len(model.layers) + matmuls, len(model.layers) - matmuls
    layer_output_l2(model, batches, [2, 4, 8])
    once = {name: len(calls) for name, calls in searched.items()}
    assert once == {
        "activation_range": 3 * operands,
        "weight_fraction": 3 * weights,
        "weight_grid": 3 * weights,
    }
    random = np.random.default_rng(0)
    for _ in range(2):
        widths = [
            [random.choice([2, 4, 8], channels).astype(np.uint8) for channels in sizes]
            for sizes in zip(*((o.out_channels, o.in_channels) for o in model.layers), strict=True)
        ]
        names = [layer.name for layer in model.layers]
        model.set_allocation(BitAllocation(names, *widths))
        with torch.inference_mode():
            model(batches[0])
    assert len(searched["activation_range"]) == once["activation_range"]
    assert len(searched["weight_fraction"]) == once["weight_fraction"]
