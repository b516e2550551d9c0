"""Trained networks as values, and what is deployed of them."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.models.config import QuantizerConfig
from bitfront.models.engine import Engine
from bitfront.models.profile import profile
from bitfront.models.qat.config import QatSettings
from bitfront.models.qat.network import TrainableNetwork
from bitfront.models.quantized import QuantizedModel
from bitfront.models.trained import TrainedNetwork
from bitfront.spaces import BitAllocation, ModelError
from tests.models.qat.conftest import NETWORKS, case_of

CONFIG = QuantizerConfig()


def small(seed=0, **changes):
    rng = np.random.default_rng(seed)
    arrays = {
        "state/fc.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "state/bn.num_batches_tracked": np.array(7),
        "input/fc": np.array([-1, 2], np.float32),
        "scale/fc": np.array([0.5, -0.25, 1.0], np.float32),
    }
    return TrainedNetwork(BitAllocation(["fc"], [4], [6]), arrays | changes)


# As values


def test_bytes_give_the_network_back():
    network = small()
    again = TrainedNetwork.from_bytes(network.to_bytes())
    assert again.allocation == network.allocation
    assert again.arrays.keys() == network.arrays.keys()
    for name, array in network.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        assert again.arrays[name].shape == array.shape
        assert np.array_equal(again.arrays[name], array)
    assert again.digest == network.digest


def test_strides_do_not_matter():
    strided = np.asfortranarray(small().arrays["state/fc.weight"])
    network = small(**{"state/fc.weight": strided})
    again = TrainedNetwork.from_bytes(network.to_bytes())
    assert np.array_equal(again.arrays["state/fc.weight"], strided)
    assert network.digest == again.digest == small().digest


def test_the_digest_names_the_content_and_nothing_else():
    network = small()
    reordered = TrainedNetwork(network.allocation, dict(reversed(network.arrays.items())))
    assert len(network.digest) == 32
    assert int(network.digest, 16) >= 0
    assert reordered.digest == network.digest
    changed = network.arrays["scale/fc"].copy()
    changed[0] = np.nextafter(changed[0], np.float32(9))
    others = [
        small(seed=1),
        small(**{"scale/fc": changed}),
        small(**{"scale/fc": network.arrays["scale/fc"].reshape(3, 1)}),
        small(**{"scale/fc": network.arrays["scale/fc"].astype(np.float64)}),
        small(**{"more": changed}),
        TrainedNetwork(network.allocation.replace("fc", weight=3), network.arrays),
        TrainedNetwork(network.allocation.replace("fc", activation=4), network.arrays),
    ]
    assert len({one.digest for one in [network, *others]}) == len(others) + 1


def test_it_is_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, '.'); from tests.models.test_trained import small; "
        "print(small().digest)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "5"}
    )
    assert out.stdout.strip() == small().digest, out.stderr


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no such thing",
        lambda data: data[:40],
        lambda data: data[:-3],
        lambda data: data + b"more",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"format"', b'"farmat"'),
        lambda data: data.replace(b"__metadata__", b"__metadota__"),
        lambda data: data.replace(b"activation", b"activision"),
        lambda data: data.replace(b"allocation", b"aspiration"),
    ],
)
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(ModelError, match="damaged"):
        TrainedNetwork.from_bytes(damage(small().to_bytes()))


def test_another_version_is_refused():
    data = small().to_bytes().replace(b'"format":"1"', b'"format":"9"')
    with pytest.raises(ModelError, match="has format 9, expected 1"):
        TrainedNetwork.from_bytes(data)


# What is deployed


def trained(case, bits, *, seed=0, **settings):
    """Return a network as if trained: weights, ranges and statistics have moved."""
    network = case.trainable(bits, **settings)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.float_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            parameter.add_(0.02 * parameter.abs().mean() * noise)
        for parameter in network.range_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    network.set_allocation(case.uniform(bits))
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(case.batch)
    return network.eval()


def close(found, expected):
    """Whether logits agree, but for single codes that rounding puts elsewhere."""
    difference = (found - expected).abs().amax(1)
    scale = expected.abs().mean()
    return difference.median() < 1e-4 * scale, difference.max() < 0.5 * scale


@pytest.mark.filterwarnings("ignore::bitfront.models.engine.EngineWarning")
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_is_deployed_is_what_was_trained(name, bits):
    case = case_of(name)
    network = trained(case, bits)
    allocation = case.uniform(bits)
    value = TrainedNetwork.from_bytes(network.trained(allocation).to_bytes())
    model = value.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)
    assert model.allocation == allocation
    x, _ = case.images.batch(slice(0, 64))
    with torch.no_grad():
        expected = network(x)
        reference = model(x)
        engine = Engine(model, x[:4]).forward(x, allocation)
    if name != "vit":
        turned = [value.arrays[f"scale/{layer.name}"] < 0 for layer in case.layers]
        assert any(t.any() for t in turned)
        negative = [m for m in case.model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert any(bool((m.weight < 0).any()) for m in negative)
    for found in (reference, engine):
        median, largest = close(found, expected)
        assert median, (found - expected).abs().amax(1)
        assert largest, (found - expected).abs().amax(1)
        top = expected.topk(2, 1).values
        clear = top[:, 0] - top[:, 1] > 0.1 * expected.abs().mean()
        assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_layers_have_the_codes_of_training_folded_or_not(bits):
    case = case_of("block")
    network = trained(case, bits)
    value = network.trained(case.uniform(bits))
    model = value.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)
    assert set(model.normalized) == {"stem", "depthwise", "pointwise", "down"}
    for name, wrapped in network.trainable_layers.items():
        weight = wrapped.inner.weight.detach()
        points = wrapped.right(weight, torch.tensor(float(bits))).detach()
        layer = model.quantized_layers[name]
        codes = layer.weight_codes(bits)
        deployed = codes.codes * codes.scales.view(-1, *[1] * (weight.dim() - 1))
        factor = torch.ones(len(weight))
        if name in model.normalized:
            norm = dict(zip(("stem", "depthwise", "pointwise", "down"), range(1, 5), strict=True))
            norm = getattr(network.network, f"bn{norm[name]}")
            factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        expected = points * factor.view(-1, *[1] * (weight.dim() - 1))
        assert torch.allclose(deployed, expected, rtol=1e-5, atol=1e-7), name


def test_other_settings_and_mixed_widths_are_deployed_too():
    case = case_of("block")
    for settings in (
        {"weight_ranges": "minmax", "activation_ranges": "minmax"},
        {"activation_ranges": "pact"},
    ):
        network = trained(case, 3, **settings)
        names = [layer.name for layer in case.layers]
        allocation = BitAllocation(names, [16, 2, 4, 8, 32], [16, 4, 2, 32, 6])
        network.set_allocation(allocation)
        value = network.trained(allocation)
        model = value.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)
        x = case.batch
        with torch.no_grad():
            assert all(close(model(x), network(x)))


def test_with_symmetric_activations_too():
    case = case_of("block")
    config = QuantizerConfig(activation_scheme="symmetric")
    reference = QuantizedModel(case.model, case.layers, config.for_training)
    reference.calibrate(case.calibration)
    for kind in ("lsq", "pact", "minmax"):
        settings = QatSettings(activation_ranges=kind)
        network = TrainableNetwork(case.model, reference, settings).eval()
        with torch.no_grad():
            for parameter in network.range_parameters():
                parameter -= 0.4 * torch.rand(parameter.shape)
        network.set_allocation(case.uniform(4))
        value = network.trained(case.uniform(4))
        model = value.deploy(copy.deepcopy(case.model), case.layers, config, case.calibration)
        with torch.no_grad():
            assert all(close(model(case.batch), network(case.batch))), kind


def test_a_channel_that_a_batch_norm_silences_stays_silent():
    case = case_of("block")
    with torch.no_grad():
        case.model.bn1.weight[2] = 0.0
        case.model.bn4.weight[1] = 0.0
    network = trained(case, 4)
    with torch.no_grad():
        network.network.bn1.weight[2] = 0.0
        network.network.bn4.weight[1] = 0.0
    value = network.trained(case.uniform(4))
    model = value.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)
    with torch.no_grad():
        assert all(close(model(case.batch), network(case.batch)))


def test_repairs_of_the_study_are_not_made_for_trained_networks():
    case = case_of("block")
    network = trained(case, 4)
    value = network.trained(case.uniform(4))
    plain = value.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)
    config = QuantizerConfig(weight_observer="output-mse", bias_correction=True, equalization=True)
    other = value.deploy(copy.deepcopy(case.model), case.layers, config, case.calibration)
    with torch.no_grad():
        assert torch.equal(plain(case.batch), other(case.batch))


def test_what_weights_the_given_network_has_does_not_matter():
    case = case_of("block")
    value = trained(case, 4).trained(case.uniform(4))
    blank = copy.deepcopy(case.model)
    with torch.no_grad():
        for tensor in (*blank.parameters(), *blank.buffers()):
            tensor.zero_()
    ours, theirs = (
        value.deploy(model, case.layers, CONFIG, case.calibration)
        for model in (copy.deepcopy(case.model), blank)
    )
    with torch.no_grad():
        assert torch.equal(ours(case.batch), theirs(case.batch))


# What is refused


def test_a_network_of_other_layers_is_refused():
    case, other = case_of("block"), case_of("cnn5")
    value = trained(case, 4).trained(case.uniform(4))
    with pytest.raises(ModelError, match="of other layers than the network it is for"):
        value.deploy(copy.deepcopy(other.model), other.layers, CONFIG, other.calibration)


def test_an_architecture_of_other_sizes_is_refused():
    case = case_of("block")
    value = trained(case, 4).trained(case.uniform(4))
    other = copy.deepcopy(case.model)
    other.down = nn.Conv2d(6, 8, 5, stride=2, padding=2, bias=False)
    layers = profile(other.eval(), (2, 8, 8))
    with pytest.raises(ModelError, match="does not fit this architecture"):
        value.deploy(other, layers, CONFIG, case.calibration)


@pytest.mark.parametrize("missing", ["scale/fc", "input/stem"])
def test_a_network_that_lacks_something_is_refused(missing):
    case = case_of("block")
    value = trained(case, 4).trained(case.uniform(4))
    arrays = {name: array for name, array in value.arrays.items() if name != missing}
    with pytest.raises(ModelError, match=f"has no '{missing}'"):
        TrainedNetwork(value.allocation, arrays).deploy(
            copy.deepcopy(case.model), case.layers, CONFIG, case.calibration
        )


def test_widths_by_channel_are_refused():
    case = case_of("block")
    value = trained(case, 4).trained(case.uniform(4))
    by_channel = value.allocation.replace("fc", weight=[2, 4, 4, 8])
    with pytest.raises(ModelError, match="one width for each operand"):
        TrainedNetwork(by_channel, value.arrays).deploy(
            copy.deepcopy(case.model), case.layers, CONFIG, case.calibration
        )


def test_numbers_that_are_not_finite_are_refused():
    case = case_of("block")
    value = trained(case, 4).trained(case.uniform(4))
    for name in ("input/fc", "state/fc.weight", "scale/fc"):
        array = value.arrays[name].copy()
        array.flat[0] = np.nan
        network = TrainedNetwork(value.allocation, {**value.arrays, name: array})
        with pytest.raises(ModelError, match="finite"):
            network.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)


def test_scales_of_another_shape_are_refused():
    case = case_of("block")
    value = trained(case, 4).trained(case.uniform(4))
    for wrong in (np.ones(3, np.float32), np.ones((4, 1), np.float32)):
        network = TrainedNetwork(value.allocation, {**value.arrays, "scale/fc": wrong})
        with pytest.raises(ModelError, match="scale/fc"):
            network.deploy(copy.deepcopy(case.model), case.layers, CONFIG, case.calibration)
