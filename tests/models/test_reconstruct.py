"""Block reconstruction: where networks are cut, what is learned, and that both paths run it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from bitfront.models.engine import Engine
from bitfront.models.engine.graph import trace
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.quantized_layers import QuantizedLayer, QuantizedWeightLayer
from bitfront.models.reconstruct import reconstruct
from bitfront.models.reconstruct.blocks import find_blocks, layer_block
from bitfront.models.reconstruct.optimize import _drawn
from bitfront.models.reconstruct.ranges import LearnedRange
from bitfront.models.reconstruct.rounding import SoftWeight
from bitfront.models.splits import Splits
from bitfront.spaces import BitAllocation, ModelError

METHODS = ("brecq", "qdrop")
CONFIG = QuantizerConfig(activation_observer="mse")


def calibrated(
    network: nn.Module, shape: tuple[int, ...], images: Tensor | None = None
) -> QuantizedModel:
    if images is None:
        images = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    model = QuantizedModel(network, profile(network, shape), CONFIG)
    model.calibrate([images])
    return model


def inner_widths(model: QuantizedModel, weight: int, activation: int) -> BitAllocation:
    """The first and last layer at 8 bits."""
    names = [layer.name for layer in model.layers]
    middle = len(names) - 2
    return BitAllocation(names, [8, *[weight] * middle, 8], [8, *[activation] * middle, 8])


def in_float(layer: QuantizedLayer, operands: tuple[Tensor, ...]) -> Tensor:
    return layer.compute(operands, 32, 32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Splits) -> nn.Module:
    """A cnn5 that tells digits apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFRONT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return trained_model("cnn5", digits, TrainConfig(epochs=3, threads=1), seed=0)


@pytest.fixture
def digits_model(trained: nn.Module, digits: Splits) -> QuantizedModel:
    """A fresh copy of it, calibrated."""
    model = QuantizedModel(trained, profile(trained, digits.input_shape), CONFIG)
    model.calibrate(list(digits.calibration.batches(64)))
    return model


@pytest.fixture(scope="module")
def batches(digits: Splits) -> list[tuple[Tensor, Tensor]]:
    return list(digits.calibration.batches(64))


Run = Callable[..., Any]


@pytest.fixture
def run(batches: list[tuple[Tensor, Tensor]]) -> Run:
    """Reconstruct on the digits, in few steps."""

    def run(model: QuantizedModel, allocation: BitAllocation, **settings: Any) -> Any:
        seed = settings.pop("seed", 0)
        given: dict[str, Any] = {"method": "brecq", "steps": 40} | settings
        generator = torch.Generator().manual_seed(seed)
        return reconstruct(model, allocation, batches, generator=generator, **given)

    return run


def divergence(logits: Tensor, full: Tensor) -> float:
    """KL of the float network's answers from a quantized one's, in nats per image."""
    return float(
        F.kl_div(
            logits.double().log_softmax(1),
            full.double().log_softmax(1),
            log_target=True,
            reduction="batchmean",
        )
    )


class TestBlocks:
    @pytest.mark.parametrize(
        ("name", "shape", "kwargs", "expected"),
        [
            (
                "resnet20",
                (3, 32, 32),
                {},
                [
                    "conv1",
                    *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)),
                    "linear",
                ],
            ),
            (
                "vit_tiny_patch4",
                (1, 12, 12),
                {"depth": 2},
                [
                    "patch_embed.proj",
                    *(f"blocks.{block}.{part}" for block in (0, 1) for part in ("attn", "mlp")),
                    "head",
                ],
            ),
            ("cnn5", (1, 8, 8), {}, ["conv1", "conv2", "conv3", "fc1", "fc2"]),
        ],
    )
    def test_residual_units_are_found_whatever_the_network(
        self,
        name: str,
        shape: tuple[int, int, int],
        kwargs: dict[str, Any],
        expected: list[str],
    ) -> None:
        network = build_model(name, classes=10, input_shape=shape, kwargs=kwargs)
        model = calibrated(network, shape)
        with torch.no_grad():
            graph = trace(model.network, model.arranged(torch.randn(2, *shape)))
        assert [block.name for block in find_blocks(graph)] == expected

    def test_inverted_residuals_with_a_shortcut_are_blocks_and_other_layers_stand_alone(
        self,
    ) -> None:
        shape = (3, 32, 32)
        model = calibrated(
            build_model("tf_efficientnet_lite0", classes=10, input_shape=shape), shape
        )
        with torch.no_grad():
            blocks = find_blocks(trace(model.network, model.arranged(torch.randn(2, *shape))))
        residual = [block.name for block in blocks if len(block.layers) > 1]
        assert residual == [
            *("blocks.1.1", "blocks.2.1", "blocks.3.1", "blocks.3.2", "blocks.4.1"),
            *("blocks.4.2", "blocks.5.1", "blocks.5.2", "blocks.5.3"),
        ]
        assert all(len(block.layers) in (1, 3) for block in blocks)
        assert blocks[3].name == "blocks.1.0.conv_pw"

    @pytest.mark.parametrize("name", ["resnet20", "resnet20s_wide", "mobilenetv3_small_050"])
    def test_blocks_one_after_the_other_are_the_network(self, name: str) -> None:
        shape = (3, 32, 32)
        model = calibrated(build_model(name, classes=10, input_shape=shape), shape)
        images = model.arranged(torch.randn(2, *shape))
        with torch.no_grad():
            blocks = find_blocks(trace(model.network, images))
            x = images
            for block in blocks:
                x = block.run((x,), in_float)
            assert torch.equal(x, model(images))
        found = [layer for block in blocks for layer in block.layers]
        assert set(found) == set(model.quantized_layers.values())
        assert len(found) == len(set(found))

    def test_relu_behind_an_addition_belongs_to_the_block_before_it(self) -> None:
        shape = (3, 16, 16)
        model = calibrated(build_model("resnet20", classes=10, input_shape=shape), shape)
        with torch.no_grad():
            graph = trace(model.network, model.arranged(torch.randn(2, *shape)))
        for block in find_blocks(graph)[:-1]:
            assert graph.operations[block.output].activation == "relu"


class TestSoftWeight:
    def test_it_starts_at_the_float_weights_inside_the_grid(
        self, digits_model: QuantizedModel
    ) -> None:
        layer = digits_model.quantized_layers["conv2"]
        assert isinstance(layer, QuantizedWeightLayer)
        soft = SoftWeight(layer, 4)
        weight = layer.inner.get_parameter("weight").detach()
        grid = layer.weight_grid(weight, 4)
        inside = torch.maximum(
            torch.minimum(weight, grid.highest * grid.scale), grid.lowest * grid.scale
        )
        start = soft.weight(soft.rounding())
        assert torch.allclose(start, inside, atol=2e-4 * float(torch.as_tensor(grid.scale).max()))

    def test_decided_at_the_start_it_has_the_nearest_codes(
        self, digits_model: QuantizedModel
    ) -> None:
        layer = digits_model.quantized_layers["conv2"]
        assert isinstance(layer, QuantizedWeightLayer)
        nearest = layer.weight_codes(3)
        SoftWeight(layer, 3).put_in_force()
        found = layer.weight_codes(3)
        assert torch.equal(found.codes, nearest.codes)
        assert torch.equal(found.scales, nearest.scales)

    def test_wide_channels_keep_codes_scales_and_bias(self, digits_model: QuantizedModel) -> None:
        layer = digits_model.quantized_layers["conv2"]
        assert isinstance(layer, QuantizedWeightLayer)
        count = layer.layer.out_channels
        bits = np.array([2, 3, 8, 8] * (count // 4), dtype=np.uint8)
        before = layer.weight_codes(bits)
        soft = SoftWeight(layer, bits)
        assert soft.bias_change is not None
        with torch.no_grad():
            soft.v.neg_()  # every rounding the other way
            soft.log_factor.add_(0.5)
            soft.bias_change.add_(1.0)
        soft.put_in_force()
        after = layer.weight_codes(bits)
        wide = torch.from_numpy(bits == 8)
        for ours, theirs in ((after.codes, before.codes), (after.scales, before.scales)):
            assert torch.equal(ours[wide], theirs[wide])
            assert not torch.equal(ours[~wide], theirs[~wide])
        assert after.bias is not None
        assert before.bias is not None
        assert torch.equal(after.bias - before.bias > 0.5, ~wide)
        two_bits = after.codes[bits == 2].flatten(1)
        assert float((two_bits.amax(1) - two_bits.amin(1)).max()) <= 3

    def test_put_out_of_force_restores_the_layer(self, digits_model: QuantizedModel) -> None:
        layer = digits_model.quantized_layers["conv2"]
        assert isinstance(layer, QuantizedWeightLayer)
        soft = SoftWeight(layer, 2)
        soft.put_in_force()
        assert set(layer.repairs) == {2}
        soft.put_out_of_force()
        assert not layer.repairs

    def test_nothing_is_undecided_where_every_rounding_is_up_or_down(
        self, digits_model: QuantizedModel
    ) -> None:
        layer = digits_model.quantized_layers["conv2"]
        assert isinstance(layer, QuantizedWeightLayer)
        soft = SoftWeight(layer, 2)
        assert float(soft.undecided(soft.decided(), 2.0)) == 0.0
        half = torch.full_like(soft.v, 0.5)
        assert float(soft.undecided(half, 2.0)) == 1.0


class TestLearnedRange:
    @pytest.mark.parametrize("scheme", ["affine", "symmetric"])
    def test_what_is_in_force_is_the_grid_that_was_learned(
        self, scheme: Any, trained: nn.Module, digits: Splits
    ) -> None:
        config = QuantizerConfig(activation_scheme=scheme)
        model = QuantizedModel(trained, profile(trained, digits.input_shape), config)
        model.calibrate(list(digits.calibration.batches(64)))
        quantizer = model.quantized_layers["conv1"].left
        learned = LearnedRange(quantizer, 4, scheme == "affine")
        before = quantizer.grid(4)
        with torch.no_grad():
            learned.log_step.fill_(-0.3)
        x = next(digits.calibration.batches(8))[0]
        expected = learned(x).detach()
        learned.put_in_force()
        after = quantizer.grid(4)
        assert (after.zero_point, after.lowest, after.highest) == (
            before.zero_point,
            before.lowest,
            before.highest,
        )
        assert after.scale == pytest.approx(before.scale * np.exp(-0.3), rel=1e-6)
        assert torch.allclose(quantizer(x, 4), expected, atol=1e-6)
        learned.put_out_of_force()
        assert quantizer.grid(4).scale == before.scale

    def test_a_clipped_value_widens_the_range(self, digits_model: QuantizedModel) -> None:
        quantizer = digits_model.quantized_layers["conv2"].left
        learned = LearnedRange(quantizer, 2, True)
        x = torch.full((4,), 100 * quantizer.range(2)[1])
        (learned(x) - x).square().sum().backward()
        assert learned.log_step.grad is not None
        assert float(learned.log_step.grad) < 0  # descent makes the step larger


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_mask_is_true_as_often_as_asked(layout: torch.memory_format) -> None:
    x = torch.zeros(5, 6, 7, 9).contiguous(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    for share in (0.25, 0.5):
        masks = torch.stack([_drawn(x, share, generator) for _ in range(200)]).float()
        assert masks[0].shape == x.shape
        assert float(masks.mean()) == pytest.approx(share, abs=0.005)
        # each element by itself, and none with its neighbour
        assert float((masks.mean(0) - share).abs().max()) < 0.17
        both = masks[..., 1:] * masks[..., :-1]
        assert float(both.mean()) == pytest.approx(share**2, abs=0.005)
    assert _drawn(x, 0.5, generator).is_contiguous(memory_format=layout)


class TestReconstruct:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("weight", "activation"), [(2, 8), (3, 3)])
    def test_every_block_improves_and_the_answers_come_nearer(
        self,
        digits_model: QuantizedModel,
        digits: Splits,
        run: Run,
        method: str,
        weight: int,
        activation: int,
    ) -> None:
        allocation = inner_widths(digits_model, weight, activation)
        images = next(digits.test.batches(200))[0]
        with torch.no_grad():
            full = digits_model(images)
            digits_model.set_allocation(allocation)
            before = divergence(digits_model(images), full)
            report = run(digits_model, allocation, method=method)
            after = divergence(digits_model(images), full)
        assert after < 0.7 * before
        assert [block.name for block in report.blocks] == [x.name for x in digits_model.layers]
        for block in report.blocks:
            assert block.loss_after <= block.loss_before
        assert [block.is_learned for block in report.blocks] == [False, True, True, True, False]
        assert (report.method, report.steps, report.untraced) == (method, 40, None)
        assert report.to_dict()["blocks"][1]["name"] == "conv2"
        assert digits_model.allocation == allocation

    def test_weights_of_8_bits_and_more_are_left_alone(
        self, digits_model: QuantizedModel, run: Run
    ) -> None:
        report = run(digits_model, BitAllocation.uniform(digits_model.layers, 8))
        assert not any(block.is_learned for block in report.blocks)
        for layer in digits_model.quantized_layers.values():
            assert isinstance(layer, QuantizedWeightLayer)
            assert not layer.repairs

    @pytest.mark.parametrize("by_channel", [False, True])
    @pytest.mark.parametrize("method", METHODS)
    def test_the_engine_computes_what_the_reference_does(
        self,
        digits_model: QuantizedModel,
        digits: Splits,
        run: Run,
        method: str,
        by_channel: bool,
    ) -> None:
        allocation = inner_widths(digits_model, 3, 4)
        if by_channel:
            count = digits_model.layers[1].out_channels
            allocation = allocation.replace("conv2", weight=[2, 8] * (count // 2))
        run(digits_model, allocation, method=method)
        images = next(digits.test.batches(100))[0]
        engine = Engine(digits_model, images[:8])
        assert set(engine.report.integer) == {layer.name for layer in digits_model.layers}
        with torch.no_grad():
            assert torch.equal(engine.forward(images, allocation), digits_model(images))

    @pytest.mark.parametrize("method", METHODS)
    def test_the_same_seed_gives_the_same_codes(
        self, trained: nn.Module, digits: Splits, run: Run, method: str
    ) -> None:
        def learned(seed: int) -> list[Tensor]:
            model = QuantizedModel(trained, profile(trained, digits.input_shape), CONFIG)
            model.calibrate(list(digits.calibration.batches(64)))
            run(model, inner_widths(model, 2, 4), method=method, seed=seed, steps=10)
            layers = (model.quantized_layers[name] for name in ("conv2", "conv3", "fc1"))
            found = []
            for layer in layers:
                assert isinstance(layer, QuantizedWeightLayer)
                found += [layer.repairs[2].codes, layer.repairs[2].scales]
            return found

        first, second, other = learned(0), learned(0), learned(1)
        assert all(map(torch.equal, first, second))
        assert not all(map(torch.equal, first, other))

    def test_the_float_network_is_untouched(
        self, digits_model: QuantizedModel, digits: Splits, run: Run
    ) -> None:
        images = next(digits.test.batches(20))[0]
        state = {name: value.clone() for name, value in digits_model.state_dict().items()}
        with torch.no_grad():
            full = digits_model(images)
        run(digits_model, inner_widths(digits_model, 2, 2), steps=5)
        assert all(torch.equal(value, state[k]) for k, value in digits_model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in digits_model.parameters())
        digits_model.set_allocation(None)
        with torch.no_grad():
            assert torch.equal(digits_model(images), full)

    def test_what_does_not_help_is_not_kept(
        self, digits_model: QuantizedModel, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bitfront.models.reconstruct.optimize.SCALE_RATE", 10.0)
        monkeypatch.setattr("bitfront.models.reconstruct.optimize.RANGE_RATE", 10.0)
        allocation = inner_widths(digits_model, 4, 4)
        ranges = [layer.left.range(4) for layer in digits_model.quantized_layers.values()]
        report = run(digits_model, allocation, method="qdrop", steps=3)
        assert not any(block.is_learned for block in report.blocks)
        assert all(block.loss_after == block.loss_before for block in report.blocks)
        for layer, before in zip(digits_model.quantized_layers.values(), ranges, strict=True):
            assert isinstance(layer, QuantizedWeightLayer)
            assert not layer.repairs
            assert layer.left.range(4) == before

    def test_no_images_are_refused(self, digits_model: QuantizedModel) -> None:
        allocation = BitAllocation.uniform(digits_model.layers, 4)
        with pytest.raises(ModelError, match="at least one batch of images"):
            reconstruct(digits_model, allocation, [], "brecq", steps=1, generator=torch.Generator())


class Undecided(nn.Module):
    """Its control flow depends on values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if float(x.sum()) >= 0:
            x = self.second(x) + self.second(x).tanh()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_cannot_be_traced_is_reconstructed_layer_by_layer(method: Any) -> None:
    shape = (1, 10, 10)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(48, *shape, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Undecided().eval()
    model = calibrated(network, shape, images)
    allocation = BitAllocation.uniform(model.layers, 3)
    report = reconstruct(
        model, allocation, list(images.split(16)), method, steps=30, generator=generator
    )
    assert report.untraced is not None
    assert [block.layers for block in report.blocks] == [("first",), ("second",), ("head",)]
    assert any(block.is_learned for block in report.blocks)
    assert all(block.loss_after <= block.loss_before for block in report.blocks)


def test_attention_products_learn_the_ranges_of_both_operands() -> None:
    shape = (1, 12, 12)
    network = build_model(
        "vit_tiny_patch4", classes=4, input_shape=shape, kwargs={"depth": 1, "embed_dim": 32}
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, *shape, generator=generator)
    model = calibrated(network, shape, images)
    allocation = inner_widths(model, 3, 3)
    product: Any = model.quantized_layers["blocks.0.attn.qk"]
    before = product.left.range(3), product.right.range(3)
    report = reconstruct(model, allocation, [images], "qdrop", steps=20, generator=generator)
    after = product.left.range(3), product.right.range(3)
    assert [block.is_learned for block in report.blocks[1:3]] == [True, True]
    assert all(ours != theirs for ours, theirs in zip(before, after, strict=True))


def test_a_layer_alone_has_an_input_for_each_operand() -> None:
    shape = (1, 12, 12)
    network = build_model(
        "vit_tiny_patch4", classes=4, input_shape=shape, kwargs={"depth": 1, "embed_dim": 32}
    )
    model = calibrated(network, shape)
    block = layer_block(model.quantized_layers["blocks.0.attn.qk"])
    left, right = torch.randn(2, 3, 4), torch.randn(2, 4, 3)
    assert torch.equal(block.run((left, right), in_float), left @ right)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize("method", METHODS)
def test_two_bits_of_a_published_network(method: Any) -> None:
    """In a few steps; docs/reconstruction.md has what the full number of steps gives."""
    splits = load_data(
        DataConfig(
            name="cifar10",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            calibration_images=128,
            search_images=1,
            test_images=500,
        )
    )
    network = build_model("resnet20", classes=10, input_shape=splits.input_shape)
    try:
        load_checkpoint(network, resolve_checkpoint("cifar10_resnet20.safetensors"))
    except ModelError as error:
        pytest.skip(str(error))
    batches = list(splits.calibration.batches(64))
    model = QuantizedModel(network, profile(network, splits.input_shape), CONFIG)
    model.calibrate(batches)
    allocation = inner_widths(model, 2, 8)
    images, labels = next(splits.test.batches(500))

    def logits_at(widths: BitAllocation | None) -> Tensor:
        model.set_allocation(widths)
        with torch.no_grad():
            return model(images)

    full, before = logits_at(None), logits_at(allocation)
    generator = torch.Generator().manual_seed(0)
    report = reconstruct(model, allocation, batches, method, steps=60, generator=generator)
    after = logits_at(allocation)
    assert [len(block.layers) for block in report.blocks] == [1, *[2] * 9, 1]
    assert all(block.loss_after < block.loss_before for block in report.blocks[1:-1])
    assert divergence(after, full) < 0.3 * divergence(before, full)
    assert int((after.argmax(1) == labels).sum()) > 350 > int((before.argmax(1) == labels).sum())
    engine = Engine(model, images[:8])
    assert torch.equal(engine.forward(images, allocation), after)
