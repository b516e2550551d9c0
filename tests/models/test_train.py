import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitfront.models import ImageSet, TrainConfig, TrainProgress, build_model, trained_model
from bitfront.models.splits import Splits
from bitfront.models.train import train
from bitfront.spaces import ModelError


def few(digits: Splits) -> ImageSet:
    return digits.train.subset(np.arange(100))


def network() -> nn.Module:
    """A small network with dropout, so that every source of randomness is in use."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))


def weights(images: ImageSet, config: TrainConfig) -> Tensor:
    model = network()
    train(model, images, config)
    return model.get_parameter("2.weight").detach()


def accuracy(model: nn.Module, images: ImageSet) -> float:
    inputs, labels = images.batch(slice(None))
    with torch.inference_mode():
        return (model(inputs).argmax(1) == labels).double().mean().item()


def test_the_digits_are_learnt_in_seconds(digits: Splits) -> None:
    model = build_model("cnn5", classes=10, input_shape=(1, 8, 8))
    report = train(model, digits.train, TrainConfig(epochs=10, threads=1))
    assert accuracy(model, digits.test) > 0.97
    assert not model.training
    assert (report.steps, report.images) == (140, 140 * 64)
    assert report.loss < 0.1


def test_the_same_settings_give_the_same_weights(digits: Splits) -> None:
    config = TrainConfig(epochs=2, augment="crop-flip", threads=1)
    torch.manual_seed(1)
    first = weights(few(digits), config)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = weights(few(digits), config)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left alone"
    other = TrainConfig(epochs=2, augment="crop-flip", threads=1, seed=1)
    assert not torch.equal(first, weights(few(digits), other))


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("sgd", 0.05), ("adam", 0.01), ("adamw", 0.01), ("adadelta", 1.0)]
)
def test_every_optimizer_learns(digits: Splits, optimizer: str, lr: float) -> None:
    model = network()
    before = accuracy(model, few(digits))
    config = TrainConfig(epochs=20, batch_size=10, lr=lr, optimizer=optimizer, threads=1)  # type: ignore[arg-type]
    train(model, few(digits), config)
    assert accuracy(model, few(digits)) > max(0.8, before)


def test_progress_is_told_after_every_step(digits: Splits) -> None:
    seen: list[TrainProgress] = []
    config = TrainConfig(epochs=2, batch_size=30, threads=1)
    train(network(), few(digits), config, progress=seen.append)
    assert [(p.step, p.epoch) for p in seen] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert {(p.steps, p.epochs) for p in seen} == {(6, 2)}
    assert seen[0].loss == pytest.approx(math.log(10), abs=0.7)


def test_what_is_minimised_can_be_replaced(digits: Splits) -> None:
    def size_of_the_weights(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return model.get_parameter("2.weight").square().sum()

    model = network()
    config = TrainConfig(epochs=20, lr=0.05, threads=1)
    train(model, few(digits), config, loss=size_of_the_weights)
    assert model.get_parameter("2.weight").abs().max() < 0.05


def test_divergence_is_told_with_its_epoch(digits: Splits) -> None:
    config = TrainConfig(epochs=3, optimizer="sgd", lr=3e38, schedule="constant", threads=1)
    with pytest.raises(ModelError, match=r"not finite in epoch \d of 3; lower lr \(now 3e"):
        train(network(), few(digits), config)


def test_the_number_of_threads_is_put_back(digits: Splits) -> None:
    before = torch.get_num_threads()
    during = []
    train(
        network(),
        few(digits),
        TrainConfig(epochs=1, threads=before + 1),
        progress=lambda _: during.append(torch.get_num_threads()),
    )
    assert during == [before + 1]
    assert torch.get_num_threads() == before


def no_progress(_: TrainProgress) -> None:
    raise AssertionError("nothing should be trained")


def test_a_network_is_trained_once_and_kept(digits: Splits, cache: Path) -> None:
    steps: list[TrainProgress] = []
    config = TrainConfig(epochs=1, threads=1)

    def get(progress: Callable[[TrainProgress], None], seed: int = 0) -> nn.Module:
        return trained_model("cnn5", digits, config, seed=seed, progress=progress)

    first = get(steps.append)
    assert len(steps) == 14
    second = get(no_progress)
    assert not second.training
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert len(list((cache / "models").iterdir())) == 1
    with pytest.raises(AssertionError, match="nothing should be trained"):
        get(no_progress, seed=1)


@pytest.mark.parametrize(
    "change",
    [
        {"config": TrainConfig(epochs=1, threads=1, lr=0.01)},
        {"kwargs": {"width": 8}},
        {"name": "cnn5", "seed": 3},
    ],
)
def test_whatever_changes_the_weights_is_trained_anew(
    digits: Splits, cache: Path, change: dict[str, object]
) -> None:
    settings: dict[str, object] = {"name": "cnn5", "config": TrainConfig(epochs=1, threads=1)}
    trained_model(splits=digits, **settings)  # type: ignore[arg-type]
    trained_model(splits=digits, **(settings | change))  # type: ignore[arg-type]
    assert len(list((cache / "models").iterdir())) == 2
