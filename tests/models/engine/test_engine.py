import warnings

import numpy as np
import pytest
import torch

from bitfront.models.config import QuantizerConfig
from bitfront.models.engine import Engine, EngineWarning, NonFiniteError, engine, kernels
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.spaces import BitAllocation, ModelError

SHAPE = (3, 12, 12)


def reference(model, x, allocation):
    model.set_allocation(allocation)
    with torch.inference_mode():
        return model(x)


def images(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def residual(networks):
    return networks.quantized(networks.Residual())


def test_it_gives_the_logits_of_the_reference_bit_for_bit(model, networks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = Engine(model, images(4, seed=2))
    assert set(fast.report.integer) == {layer.name for layer in model.layers}
    x = images(16, seed=3)
    uniform = BitAllocation.uniform(model.layers, 8)
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))
    for seed in range(6):
        mixed = networks.random_allocation(model, seed, (2, 3, 4, 5, 6, 7, 8, 16, 32))
        assert torch.equal(fast.forward(x, mixed), reference(model, x, mixed))


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_both_schemes_of_activations(scheme, networks):
    model = networks.quantized(networks.Residual(), QuantizerConfig(activation_scheme=scheme))
    fast = Engine(model, images(4, seed=2))
    x, uniform = images(16, seed=3), BitAllocation.uniform(model.layers, 6)
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))


def test_per_channel_widths(residual):
    model = residual
    fast = Engine(model, images(4, seed=2))
    rng = np.random.default_rng(0)
    layers = model.layers
    allocation = BitAllocation(
        [layer.name for layer in layers],
        [rng.choice([2, 4, 8], layer.out_channels) for layer in layers],
        [rng.choice([4, 8], layer.in_channels) for layer in layers],
    )
    x = images(16, seed=3)
    assert torch.equal(fast.forward(x, allocation), reference(model, x, allocation))


def test_float_is_the_float_network(residual):
    model = residual
    fast = Engine(model, images(4, seed=2))
    x = images(5, seed=3)
    assert torch.equal(fast.forward(x, None), reference(model, x, None))


def test_the_images_are_not_changed(model):
    x = images(5, seed=3)
    before = x.clone()
    Engine(model, x).forward(x, BitAllocation.uniform(model.layers, 8))
    assert torch.equal(x, before)


def test_weights_that_change_are_seen(residual):
    model = residual
    fast = Engine(model, images(4, seed=2))
    x, uniform = images(5, seed=3), BitAllocation.uniform(model.layers, 8)
    fast.forward(x, uniform)
    with torch.no_grad():
        model.quantized_layers["conv1"].inner.weight.mul_(0.5)
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))


def test_the_cache_of_packed_weights_keeps_its_bound(residual):
    model = residual
    fast = Engine(model, images(4, seed=2), cache_bytes=2000)
    x = images(5, seed=3)
    roomy = Engine(model, images(4, seed=2))
    for bits in (8, 4, 2, 8):
        uniform = BitAllocation.uniform(model.layers, bits)
        assert torch.equal(fast.forward(x, uniform), roomy.forward(x, uniform))
        assert fast._weights.size_bytes <= 2000 < roomy._weights.size_bytes


def test_a_network_without_a_trace_runs_layer_by_layer_with_a_warning(networks):
    model = networks.quantized(networks.Branch())
    with pytest.warns(EngineWarning, match="one by one.*control flow"):
        fast = Engine(model, images(4, seed=2))
    assert fast.report.integer == ("conv", "fc")
    model.set_allocation(None)
    allocations = [networks.random_allocation(model, seed, (2, 4, 8, 16)) for seed in range(4)]
    for x in (images(5, seed=3) + 1, images(5, seed=3) - 1):
        for allocation, logits in zip(allocations, fast.forward_each(x, allocations), strict=True):
            assert torch.equal(logits, reference(model, x, allocation))
    model.set_allocation(None)
    fast.forward(x, allocations[0])
    assert model.allocation is None and model.quantized_layers["fc"].kernel is None
    assert fast.together([*allocations, None]) == [[0], [1], [2], [3], [4]]


def test_layer_by_layer_a_kernel_that_disagrees_is_not_used(networks, monkeypatch):
    real = kernels.conv
    monkeypatch.setattr("bitfront.models.engine.steps.conv", lambda *args: real(*args).mul_(2))
    model = networks.quantized(networks.Branch())
    with pytest.warns(EngineWarning) as caught:
        fast = Engine(model, images(4, seed=2))
    assert "gives other results" in str(caught[-1].message)
    assert fast.report.integer == ("fc",)
    x, uniform = images(5, seed=3), BitAllocation.uniform(model.layers, 4)
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))


def test_no_kernels_on_this_machine(monkeypatch, residual):
    monkeypatch.setattr(engine, "available", lambda: "the CPU is a sundial")
    model = residual
    with pytest.warns(EngineWarning, match="the CPU is a sundial"):
        fast = Engine(model, images(4, seed=2))
    x, uniform = images(5, seed=3), BitAllocation.uniform(model.layers, 4)
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))


def test_a_kernel_that_disagrees_is_not_used(monkeypatch, residual):
    real = kernels.conv

    def wrong(codes, grid, weight, module, activation, output, accumulate=None):
        out = real(codes, grid, weight, module, activation, output, accumulate)
        return out if module.stride == (1, 1) else out.mul_(2)

    monkeypatch.setattr("bitfront.models.engine.steps.conv", wrong)
    model = residual
    with pytest.warns(EngineWarning) as caught:
        fast = Engine(model, images(4, seed=2))
    assert set(fast.report.reference) == {"conv3", "down"}
    assert all("its integer kernel gives other results" in str(w.message) for w in caught)
    x, uniform = images(5, seed=3), BitAllocation.uniform(model.layers, 8)
    assert torch.equal(fast.forward(x, uniform), reference(model, x, uniform))


def test_values_that_are_not_finite_name_the_layer(networks):
    model = networks.quantized(networks.Logarithm())
    fast = Engine(model, images(4, seed=2))
    uniform = BitAllocation.uniform(model.layers, 8)
    assert torch.isfinite(fast.forward(images(2), uniform)).all()
    with pytest.raises(NonFiniteError, match="layer 'fc'"):
        fast.forward(images(2) - 2, uniform)
    with pytest.raises(NonFiniteError, match="layer 'stem'"):
        fast.forward(images(2) * float("nan"), uniform)


def test_an_allocation_for_another_network_is_refused(residual):
    fast = Engine(residual, images(4, seed=2))
    with pytest.raises(ModelError, match="another network"):
        fast.forward(images(2), BitAllocation(["other"] * 1, [8], [8]))


def one_at_a_time(model, widths):
    layers = model.layers
    for place in range(len(layers)):
        for bits in widths:
            every = [8] * len(layers)
            every[place] = bits
            yield BitAllocation([layer.name for layer in layers], every, every)


@pytest.mark.parametrize("shared_bytes", [0, 40_000, 2**30])
def test_many_allocations_at_once_give_bit_for_bit_what_each_gives(model, shared_bytes):
    fast = Engine(model, images(4, seed=2), shared_bytes=shared_bytes)
    allocations = [*one_at_a_time(model, (3, 8, 16)), None, *one_at_a_time(model, (5,))]
    x = images(6, seed=3)
    together = fast.forward_each(x, allocations)
    for allocation, logits in zip(allocations, together, strict=True):
        assert torch.equal(logits, fast.forward(x, allocation))


def test_groups_are_those_that_share_work(residual):
    model = residual
    fast = Engine(model, images(4, seed=2))
    late = [a for a in one_at_a_time(model, (3, 4)) if a.weights[-1] != 8]
    first = BitAllocation.uniform(model.layers, 4)
    assert fast.together([first, *late, first, None]) == [[0], [1, 2], [3], [4]]


def test_real_shapes_have_no_gradients_and_any_batch(networks):
    torch.manual_seed(0)
    network = build_model("resnet20", classes=10, input_shape=SHAPE)
    model = networks.quantized(network)
    fast = Engine(model, images(2))
    uniform = BitAllocation.uniform(model.layers, 8)
    for count in (1, 7):
        logits = fast.forward(images(count), uniform)
        assert logits.shape == (count, 10)
        assert not logits.requires_grad


@pytest.mark.parametrize("smallest", [0, 2**19])
def test_products_of_activations_are_the_references_bit_for_bit(networks, monkeypatch, smallest):
    monkeypatch.setattr(kernels, "_SMALL_PRODUCT", smallest)
    network = build_model("vit_tiny_patch4", classes=10, input_shape=SHAPE)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    model = networks.quantized(network)
    fast = Engine(model, images(4, seed=2))
    assert {layer.name for layer in model.layers if layer.kind == "matmul"} <= set(
        fast.report.integer
    )
    x = images(5, seed=3)
    for seed in range(4):
        mixed = networks.random_allocation(model, seed, (2, 4, 6, 8, 16))
        assert torch.equal(fast.forward(x, mixed), reference(model, x, mixed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenetv3_large_100", "tf_efficientnet_lite0", "deit_tiny_patch16_224"],
)
def test_networks_of_timm_run_on_kernels_bit_for_bit(name, networks):
    shape = (3, 64, 64)
    torch.manual_seed(0)
    network = build_model(f"timm:{name}", classes=10, input_shape=shape)
    model = QuantizedModel(network, profile(network, shape))
    model.calibrate([torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))])
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = Engine(model, x)
    assert not fast.report.reference
    for seed in range(3):
        mixed = networks.random_allocation(model, seed, (4, 6, 8))
        assert torch.equal(fast.forward(x, mixed), reference(model, x, mixed))
