"""Batch norms estimated again: what layers give, who runs it, and what is left behind."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from bitfront.models.adaptation.batch_norm import BatchNorms, Spread, _correction, pooled
from bitfront.models.config import QuantizerConfig
from bitfront.models.engine import Engine
from bitfront.models.images import ImageSet
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.spaces import BitAllocation, ModelError


def allocations(model: QuantizedModel) -> dict[str, BitAllocation]:
    layers = model.layers
    uniform = BitAllocation.uniform(layers, 3, 4)
    return {
        "3 and 4 bits": uniform,
        "by channel": uniform.replace(
            "conv", weight=[2, 3, 4, 5, 6, 7, 8, 2], activation=[2, 4, 8, 8, 3, 4, 5, 6]
        ),
        "wide weights": uniform.replace("conv", weight=16).replace("fc1", weight=32),
        "8 bits": BitAllocation.uniform(layers, 8),
    }


@contextmanager
def outputs(model: QuantizedModel) -> Iterator[Mapping[str, Tensor]]:
    """Collect what layers give."""
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _, x, out, name=name: seen.update({name: out}))
        for name, layer in model.quantized_layers.items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


def statistics(model: QuantizedModel, images: ImageSet) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation by channel of layers with a batch norm."""
    with outputs(model) as seen, torch.no_grad():
        model(images.batch(slice(None))[0])
    by_channel = {name: seen[name].transpose(0, 1).flatten(1) for name in model.normalized}
    return {name: (x.mean(1), x.std(1, correction=0)) for name, x in by_channel.items()}


def test_layers_with_a_folded_batch_norm_are_known(model: QuantizedModel) -> None:
    assert model.normalized == ("stem", "conv", "fc1")


def test_a_layer_that_is_not_quantized_is_none_of_them(
    network: nn.Module, calibration: ImageSet
) -> None:
    layers = [layer for layer in profile(network, calibration.shape) if layer.name != "stem"]
    model = QuantizedModel(network, layers, QuantizerConfig())
    model.calibrate(calibration.batches(24))
    assert model.normalized == ("conv", "fc1")


@pytest.mark.parametrize("widths", ["3 and 4 bits", "by channel", "wide weights", "8 bits"])
@pytest.mark.parametrize("with_engine", [True, False])
def test_layers_give_the_mean_and_spread_of_the_float_network(
    model: QuantizedModel, calibration: ImageSet, widths: str, with_engine: bool
) -> None:
    expected = statistics(model, calibration)
    allocation = allocations(model)[widths]
    engine = Engine(model, calibration.batch(slice(4))[0]) if with_engine else None
    model.set_allocation(allocation)
    before = statistics(model, calibration)
    with BatchNorms(model, calibration, 24).corrected(allocation, engine):
        after = statistics(model, calibration)
    for name, (mean, deviation) in expected.items():
        torch.testing.assert_close(after[name][0], mean, rtol=0, atol=2e-3)
        torch.testing.assert_close(after[name][1], deviation, rtol=5e-3, atol=0)
    if widths != "8 bits":
        assert (before["conv"][1] - expected["conv"][1]).abs().max() > 0.02


@pytest.mark.parametrize("widths", ["3 and 4 bits", "by channel", "8 bits"])
def test_engine_and_reference_find_and_run_the_same_to_the_last_bit(
    model: QuantizedModel, calibration: ImageSet, widths: str
) -> None:
    allocation, (x, _) = allocations(model)[widths], calibration.batch(slice(8))
    engine = Engine(model, x)
    norms = BatchNorms(model, calibration, 24)
    model.set_allocation(allocation)
    with torch.no_grad(), norms.corrected(allocation):
        by_reference = model(x)
    with torch.no_grad(), norms.corrected(allocation, engine):
        assert torch.equal(model(x), by_reference)
        assert torch.equal(engine.forward(x, allocation), by_reference)
        with engine.kernels(allocation):
            assert torch.equal(model(x), by_reference)


def test_nothing_of_it_is_left_behind(model: QuantizedModel, calibration: ImageSet) -> None:
    allocation, (x, _) = allocations(model)["3 and 4 bits"], calibration.batch(slice(8))
    engine = Engine(model, x)
    expected = engine.forward(x, allocation)
    norms = BatchNorms(model, calibration, 24)
    for _ in range(2):
        with norms.corrected(allocation, engine):
            assert not torch.equal(engine.forward(x, allocation), expected)
        assert torch.equal(engine.forward(x, allocation), expected)
    with pytest.raises(ZeroDivisionError), norms.corrected(allocation):
        raise ZeroDivisionError
    assert model.allocation is None
    model.set_allocation(allocation)
    with torch.no_grad():
        assert torch.equal(model(x), expected)


def test_weights_are_packed_once_for_all_corrections(
    model: QuantizedModel, calibration: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocation, (x, _) = allocations(model)["3 and 4 bits"], calibration.batch(slice(8))
    engine = Engine(model, x)
    engine.forward(x, allocation)

    def never(*args: object) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr("bitfront.models.engine.weights._packed", never)
    with BatchNorms(model, calibration, 24).corrected(allocation, engine):
        engine.forward(x, allocation)


def test_in_batches_it_is_about_the_same(model: QuantizedModel, calibration: ImageSet) -> None:
    allocation = allocations(model)["3 and 4 bits"]
    expected = statistics(model, calibration)["conv"]
    model.set_allocation(allocation)
    before = statistics(model, calibration)["conv"]
    with BatchNorms(model, calibration, 8).corrected(allocation):
        after = statistics(model, calibration)["conv"]
    for old, new, wanted in zip(before, after, expected, strict=True):
        assert (new - wanted).abs().max() < 0.2 * (old - wanted).abs().max()


def test_batches_of_unlike_sizes_are_pooled_by_hand() -> None:
    # The values 0, 2, 4, 6 of one image each: means 1 and 5 of two, or 0 of one and 4 of three.
    halves = [Spread(torch.tensor([m]), torch.tensor([1.0]), 2) for m in (1.0, 5.0)]
    first = Spread(torch.tensor([0.0]), torch.tensor([0.0]), 1)
    rest = Spread(torch.tensor([4.0]), torch.tensor([8.0 / 3]), 3)
    for parts in (halves, [first, rest]):
        found = pooled(parts)
        assert found.images == 4
        assert found.mean.item() == pytest.approx(3.0)
        assert found.variance.item() == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("found", "target", "factor"),
    [
        (4.0, 9.0, 1.5),
        (0.0, 9.0, 1.0),  # nothing is left of the channel
        (0.01, 9.0, 1.0),  # next to nothing
        (4.0, 0.0, 1.0),  # the float network has nothing there
        (0.0, 0.0, 1.0),
        (math.nan, 9.0, 1.0),
    ],
)
def test_a_channel_is_spread_only_where_there_is_something(
    found: float, target: float, factor: float
) -> None:
    one, other = (
        Spread(torch.tensor([mean]), torch.tensor([variance]), 1)
        for mean, variance in ((3.0, found), (5.0, target))
    )
    correction = _correction(one, other)
    assert correction.factor.tolist() == [factor]
    assert correction.shift.tolist() == [5.0 - factor * 3.0]


def test_a_network_without_batch_norms_is_refused(calibration: ImageSet) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    model = QuantizedModel(network, profile(network, calibration.shape), QuantizerConfig())
    model.calibrate(calibration.batches(8))
    with pytest.raises(ModelError, match="has none behind a convolution or linear layer"):
        BatchNorms(model, calibration, 8)
