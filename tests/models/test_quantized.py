import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models import (
    DataConfig,
    QuantizerConfig,
    TrainConfig,
    build_model,
    load_checkpoint,
    load_data,
    resolve_checkpoint,
    trained_model,
)
from bitfront.models.evaluate import evaluate
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation, ModelError

SHAPE = (1, 8, 8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name):
    model = build_model(name, classes=10, input_shape=SHAPE)
    # A transformer's head starts at zero, which would hide everything before it.
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    return model


def images(count=16, shape=SHAPE, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def quantized(model, shape=SHAPE, config=None, **settings):
    out = QuantizedModel(model, profile(model, shape), config, **settings)
    out.calibrate([images(shape=shape)])
    return out


def run(model, x):
    with torch.inference_mode():
        return model(x)


@pytest.fixture(params=["cnn5", "vit_tiny_patch4"])
def model(request):
    return build(request.param)


def test_float_equals_the_original_before_and_after_calibration(model):
    layers = profile(model, SHAPE)
    ours = QuantizedModel(model, layers)
    x = images(seed=1)
    torch.testing.assert_close(run(ours, x), run(model, x), rtol=1e-5, atol=1e-5)
    ours.calibrate([images()])
    torch.testing.assert_close(run(ours, x), run(model, x), rtol=1e-5, atol=1e-5)
    ours.set_allocation(BitAllocation.uniform(layers, 32))
    torch.testing.assert_close(run(ours, x), run(model, x), rtol=1e-5, atol=1e-5)


def test_the_original_is_left_alone(model):
    before = copy.deepcopy(model.state_dict())
    modules = [type(module) for module in model.modules()]
    ours = quantized(model)
    ours.set_allocation(BitAllocation.uniform(ours.layers, 2))
    ours.train()(images()).sum().backward()
    assert [type(module) for module in model.modules()] == modules
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_switching_back_and_forth_is_exact_and_rebuilds_nothing(model):
    ours, x = quantized(model), images(seed=1)
    modules = list(ours.modules())
    widths = [None, *(BitAllocation.uniform(ours.layers, bits) for bits in (2, 4, 8, 16))]
    first = []
    for allocation in widths:
        ours.set_allocation(allocation)
        assert ours.allocation is allocation
        first.append(run(ours, x))
    for allocation, expected in reversed(list(zip(widths, first, strict=True))):
        ours.set_allocation(allocation)
        assert torch.equal(run(ours, x), expected)
    assert list(ours.modules()) == modules


def test_more_bits_come_closer_to_float(model):
    ours, x = quantized(model, config=QuantizerConfig(activation_observer="minmax")), images()
    full = run(ours, x)
    errors = []
    for bits in (2, 4, 8, 16):
        ours.set_allocation(BitAllocation.uniform(ours.layers, bits))
        errors.append(float((run(ours, x) - full).norm() / full.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.05 and errors[3] < 1e-3


def test_a_convolution_by_hand():
    # Each output channel has a scale of its own, so that 1 and -0.5 are exact at 4 bits. Inputs up
    # to 3 at 2 bits have scale 1, so that 1.4 becomes 1 and 2.6 becomes 3.
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -0.5]).view(2, 1, 1, 1)
    x = torch.tensor([0.0, 1.4, 2.6, 3.0]).view(1, 1, 2, 2)
    ours = QuantizedModel(
        conv, profile(conv, (1, 2, 2)), QuantizerConfig("minmax", "affine", "minmax")
    )
    ours.calibrate([x])
    ours.set_allocation(BitAllocation([""], [4], [2]))
    out = run(ours, x)[0]
    torch.testing.assert_close(out[0].flatten(), torch.tensor([0.0, 1.0, 3.0, 3.0]))
    torch.testing.assert_close(out[1].flatten(), torch.tensor([0.0, -0.5, -1.5, -1.5]))


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "kl"])
def test_every_quantizer_keeps_8_bits_close(scheme, observer):
    model = build_model("cnn5", classes=10, input_shape=SHAPE)
    ours = quantized(model, config=QuantizerConfig("mse", scheme, observer))
    ours.set_allocation(BitAllocation.uniform(ours.layers, 8))
    x = images()
    full = run(model, x)
    assert (run(ours, x) - full).norm() < 0.1 * full.norm()


def test_widths_of_one_layer_change_that_layer_alone(model):
    ours, x = quantized(model), images(seed=1)
    layer = ours.layers[2]
    allocation = BitAllocation.uniform(ours.layers, 32).replace(layer.name, weight=2, activation=2)
    ours.set_allocation(allocation)
    for name, module in ours.quantized_layers.items():
        assert (module.weight_bits, module.activation_bits) == (
            (2, 2) if name == layer.name else (32, 32)
        )
    assert not torch.equal(run(ours, x), run(model, x))


def test_channels_at_different_widths(model):
    ours, x = quantized(model), images(seed=1)
    rng = np.random.default_rng(0)
    for choices in ([2, 4, 8], [4, 16, 32]):
        allocation = BitAllocation(
            [layer.name for layer in ours.layers],
            [rng.choice(choices, layer.out_channels) for layer in ours.layers],
            [rng.choice(choices, layer.in_channels) for layer in ours.layers],
        )
        ours.set_allocation(allocation)
        out = run(ours, x)
        ours.set_allocation(None)
        run(ours, x)
        ours.set_allocation(allocation)
        assert torch.isfinite(out).all()
        assert torch.equal(run(ours, x), out)


def test_a_weight_channel_at_a_width_of_its_own_is_that_of_the_whole_layer_at_it():
    linear = nn.Linear(4, 3)
    ours = quantized(linear, (4,))
    x = images(shape=(4,), seed=1)
    by_width = {}
    for bits in (2, 8, 32):
        ours.set_allocation(BitAllocation([""], [bits], [32]))
        by_width[bits] = run(ours, x)
    ours.set_allocation(BitAllocation([""], [[2, 8, 32]], [32]))
    mixed = run(ours, x)
    for channel, bits in enumerate((2, 8, 32)):
        torch.testing.assert_close(mixed[:, channel], by_width[bits][:, channel])


def test_training_reaches_weights_and_inputs_and_lowers_the_loss():
    model = build_model("cnn5", classes=10, input_shape=SHAPE)
    ours = quantized(model)
    ours.set_allocation(BitAllocation.uniform(ours.layers, 3))
    x, labels = images(32).requires_grad_(), torch.arange(32) % 10
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.003)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(ours(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in ours.parameters())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_changed_weights_are_quantized_anew(observer):
    ours = quantized(nn.Linear(4, 3), (4,), QuantizerConfig(observer))
    ours.set_allocation(BitAllocation([""], [4], [32]))
    x = images(shape=(4,))
    before = run(ours, x)
    with torch.no_grad():
        ours.network.inner.weight.mul_(2)
    bias = ours.network.inner.bias.detach()
    torch.testing.assert_close(run(ours, x) - bias, 2 * (before - bias))


def test_the_result_after_training_depends_on_the_weights_alone():
    # A copy that never trained, given the trained weights, computes the same.
    ours = quantized(nn.Linear(6, 3), (6,))
    fresh = copy.deepcopy(ours)
    allocation = BitAllocation([""], [2], [4])
    ours.set_allocation(allocation)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.5)
    for _ in range(5):
        ours(images(shape=(6,))).square().sum().backward()
        optimizer.step()
    fresh.load_state_dict(ours.state_dict())
    fresh.set_allocation(allocation)
    x = images(shape=(6,), seed=1)
    assert torch.equal(run(fresh, x), run(ours, x))


def test_weights_quantized_without_gradients_serve_passes_with_them():
    linear = nn.Linear(4, 3).requires_grad_(False)
    ours = quantized(linear, (4,))
    ours.set_allocation(BitAllocation([""], [4], [4]))
    x = images(shape=(4,)).requires_grad_()
    run(ours, x.detach())
    ours(x).sum().backward()
    assert x.grad is not None


def test_quantized_weights_are_kept_within_bounds():
    model = build_model("cnn5", classes=10, input_shape=SHAPE)
    x, limit = images(), 20_000
    ours = quantized(model, cache_bytes=limit)
    cache = ours.quantized_layers["conv1"]._cache
    expected = {}
    for bits in (2, 3, 4, 2, 3, 4):
        ours.set_allocation(BitAllocation.uniform(ours.layers, bits))
        out = run(ours, x)
        assert torch.equal(out, expected.setdefault(bits, out))
        assert 0 < cache.size_bytes <= limit
        assert cache.size_bytes == sum(kept.nbytes for _, kept in cache._entries.values())


def test_a_second_pass_reuses_quantized_weights(monkeypatch):
    ours, x = quantized(build_model("cnn5", classes=10, input_shape=SHAPE)), images()
    ours.set_allocation(BitAllocation.uniform(ours.layers, 4))
    expected = run(ours, x)
    layer_type = type(ours.quantized_layers["conv1"])
    monkeypatch.setattr(layer_type, "weight_grid", None)  # calling it would raise
    ours.set_allocation(None)
    ours.set_allocation(BitAllocation.uniform(ours.layers, 4))
    assert torch.equal(run(ours, x), expected)


def test_copies_and_pickles_compute_the_same(model):
    ours, x = quantized(model), images(seed=1)
    allocation = BitAllocation.uniform(ours.layers, 3, 5)
    ours.set_allocation(allocation)
    expected = run(ours, x)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert other.allocation == allocation
        assert torch.equal(run(other, x), expected)
        other.set_allocation(None)
        assert torch.equal(run(ours, x), expected)


def test_calibration_does_not_depend_on_batches(model):
    x = images(12)
    layers = profile(model, SHAPE)
    whole, pieces = QuantizedModel(model, layers), QuantizedModel(model, layers)
    whole.calibrate([x])
    pieces.calibrate([(x[:5], torch.zeros(5)), (x[5:], torch.zeros(7))])
    name = layers[0].name
    assert whole.quantized_layers[name].left.range(4) == pieces.quantized_layers[name].left.range(4)
    allocation = BitAllocation.uniform(layers, 8)
    whole.set_allocation(allocation)
    pieces.set_allocation(allocation)
    torch.testing.assert_close(run(whole, x), run(pieces, x), rtol=0.02, atol=0.02)


def test_a_second_calibration_replaces_the_first():
    ours = quantized(nn.Linear(4, 3), (4,), QuantizerConfig(activation_observer="minmax"))
    ours.calibrate([torch.full((1, 4), 7.0)])
    assert ours.quantized_layers[""].left.range(8) == (0.0, 7.0)


class PaddedByItself(nn.Conv2d):
    """Pads like TensorFlow, as timm's Conv2dSame does."""

    def forward(self, x):
        return nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class Standardised(nn.Conv2d):
    """Computes with weights other than its parameter."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize("kind", [PaddedByItself, Standardised])
def test_a_convolution_with_its_own_forward_is_quantized_where_it_convolves(kind):
    module = kind(1, 2, 2)
    ours = quantized(module, config=QuantizerConfig("minmax", "affine", "minmax"))
    x = images(seed=1)
    weight = module.weight - module.weight.mean() if kind is Standardised else module.weight
    plain = nn.Conv2d(1, 2, 2)
    plain.weight.data, plain.bias.data = weight.detach().clone(), module.bias.detach().clone()
    padded = nn.functional.pad(x, (0, 1, 0, 1)) if kind is PaddedByItself else x
    reference = QuantizedModel(plain, profile(plain, SHAPE), ours.config)
    reference.calibrate([images()])
    for widths in ((4, 32), (32, 4), (3, 5)):
        allocation = BitAllocation([""], [widths[0]], [widths[1]])
        ours.set_allocation(allocation)
        reference.set_allocation(allocation)
        torch.testing.assert_close(run(ours, x), run(reference, padded))


class Viewing(nn.Module):
    """Needs contiguous activations."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(72, 4)

    def forward(self, x):
        return self.fc(self.conv(x).view(len(x), -1))


def test_a_network_that_needs_contiguous_activations_works():
    model = Viewing()
    ours, x = quantized(model), images(seed=1)
    torch.testing.assert_close(run(ours, x), run(model, x))


class Reading(nn.Module):
    """Reads attributes of its layers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x.to(self.fc.weight.dtype)) / self.fc.in_features


def test_attributes_of_a_layer_can_still_be_read():
    model = Reading()
    ours, x = quantized(model, (4,)), images(shape=(4,))
    torch.testing.assert_close(run(ours, x), run(model, x))
    with pytest.raises(AttributeError, match="no_such"):
        _ = ours.network.fc.no_such


def test_accuracy_of_real_digits_survives_8_bits(digits, cache):
    network = trained_model("cnn5", digits, TrainConfig(epochs=3))
    ours = QuantizedModel(network, profile(network, digits.input_shape))
    ours.calibrate(digits.calibration.batches(64))
    full = evaluate(ours, digits.test, 256)
    ours.set_allocation(BitAllocation.uniform(ours.layers, 8))
    eight = evaluate(ours, digits.test, 256)
    ours.set_allocation(BitAllocation.uniform(ours.layers, 2))
    two = evaluate(ours, digits.test, 256)
    assert full.accuracy > 0.9
    assert abs(eight.accuracy - full.accuracy) < 0.01
    assert two.loss > eight.loss


def test_widths_before_calibration_are_refused():
    model = build_model("cnn5", classes=10, input_shape=SHAPE)
    ours = QuantizedModel(model, profile(model, SHAPE))
    with pytest.raises(ModelError, match="call calibrate before set_allocation"):
        ours.set_allocation(BitAllocation.uniform(ours.layers, 8))
    with pytest.raises(ModelError, match="at least one batch"):
        ours.calibrate([])


def test_an_allocation_for_other_layers_is_refused_with_the_first_difference():
    ours = quantized(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), (4,))
    with pytest.raises(ModelError, match="its layer 1 is 'fc', the model's is '1'"):
        ours.set_allocation(BitAllocation(["0", "fc"], [8, 8], [8, 8]))
    with pytest.raises(ModelError, match="has 1 layers, the model has 2"):
        ours.set_allocation(BitAllocation(["0"], [8], [8]))
    with pytest.raises(ModelError, match="layer '0': 3 weight widths for 4 output channels"):
        ours.set_allocation(BitAllocation(["0", "1"], [[2, 4, 8], 8], [8, 8]))
    with pytest.raises(ModelError, match="layer '1': 2 activation widths for 4 input channels"):
        ours.set_allocation(BitAllocation(["0", "1"], [8, 8], [8, [2, 8]]))


def test_layers_of_another_network_are_refused():
    layers = profile(nn.Sequential(nn.Linear(4, 4)), (4,))
    with pytest.raises(ModelError, match="has 20 weights in the network, 16 in its description"):
        QuantizedModel(nn.Sequential(nn.Linear(4, 5)), layers)
    with pytest.raises(ModelError, match="no quantizable layer '0'; known: 'fc'"):
        QuantizedModel(Reading(), layers)


def test_weights_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(4, 4))
    layers = profile(model, (4,))
    ours = quantized(model, (4,))
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(ModelError, match="layer '0' has weights that are not finite"):
        QuantizedModel(model, layers)
    nn.init.constant_(ours.network[0].inner.weight, float("inf"))
    ours.set_allocation(BitAllocation(["0"], [8], [8]))
    with pytest.raises(ModelError, match="layer '0' has weights that are not finite"):
        run(ours, images(shape=(4,)))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_bias_that_is_not_finite_names_the_layer(value):
    ours = quantized(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (4,))
    with torch.no_grad():
        ours.network[2].inner.bias[1] = value
    ours.set_allocation(BitAllocation(["0", "2"], [8, 8], [8, 8]))
    with pytest.raises(ModelError, match="layer '2' has a bias that is not finite"):
        run(ours, images(shape=(4,)))


def test_activations_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.constant_(model[0].weight, 3e38)  # finite; its products are not
    with pytest.raises(ModelError, match="the input of layer '1' has a value that is not finite"):
        quantized(model, (4,))


class Choosing(nn.Module):
    """Calls one layer only for a zero input, as the one that is profiled."""

    def __init__(self):
        super().__init__()
        self.always, self.rarely = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.always(x) if x.any() else self.rarely(self.always(x))


def test_a_layer_that_calibration_never_calls_is_named():
    with pytest.raises(ModelError, match="layer 'rarely' was not called"):
        quantized(Choosing(), (4,))


@pytest.mark.slow
def test_published_weights_keep_their_accuracy_at_8_bits(shared_data):
    try:
        path = resolve_checkpoint("cifar10_resnet20.safetensors")
    except ModelError as error:
        pytest.skip(str(error))
    data = load_data(DataConfig(name="cifar10", mean=MEAN, std=STD))
    network = build_model("resnet20", classes=10, input_shape=(3, 32, 32))
    load_checkpoint(network, path)
    ours = QuantizedModel(network, profile(network, (3, 32, 32)))
    ours.calibrate(data.calibration.batches(128))
    correct = {}
    for bits in (32, 8, 4, 2):
        ours.set_allocation(BitAllocation.uniform(ours.layers, bits))
        correct[bits] = evaluate(ours, data.test, 128, limit=1000).correct
    assert correct[32] == pytest.approx(915, abs=1)
    assert abs(correct[8] - correct[32]) <= 5
    assert correct[4] < correct[8] - 5
    assert correct[2] < 500
