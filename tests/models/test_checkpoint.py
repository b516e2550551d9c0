from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bitfront.models import build_model, load_checkpoint, save_checkpoint
from bitfront.spaces import ModelError


def network(seed: int = 0) -> nn.Module:
    return build_model("cnn5", classes=10, input_shape=(1, 8, 8), seed=seed)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


def write(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    source, target = network(0), network(1)
    assert not same_weights(source, target)
    save_checkpoint(source, tmp_path / "folder" / "weights.safetensors")
    load_checkpoint(target, tmp_path / "folder" / "weights.safetensors")
    assert same_weights(source, target)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_data_parallel_prefix_is_dropped(tmp_path: Path, suffix: str) -> None:
    state = {f"module.{name}": tensor for name, tensor in network(0).state_dict().items()}
    target = network(1)
    load_checkpoint(target, write(state, tmp_path / f"weights{suffix}"))
    assert same_weights(network(0), target)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_state_dict_inside_a_checkpoint_is_found(tmp_path: Path, key: str) -> None:
    torch.save({key: network(0).state_dict(), "epoch": 7}, tmp_path / "weights.pt")
    target = network(1)
    load_checkpoint(target, tmp_path / "weights.pt")
    assert same_weights(network(0), target)


def test_the_counters_of_batch_norm_may_be_absent(tmp_path: Path) -> None:
    state = {n: t for n, t in network(0).state_dict().items() if "num_batches" not in n}
    target = network(1)
    load_checkpoint(target, write(state, tmp_path / "weights.safetensors"))
    assert same_weights(network(0), target)


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in network().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("fc2.bias"), r"1 of \d+ tensors are missing, 'fc2.bias'"),
        (
            without("fc2.bias") | {"fc2.bais": torch.zeros(10)},
            r"missing, 'fc2.bias'; 1 are unknown, 'fc2.bais' \(did you mean 'fc2.bias'",
        ),
        (
            without("fc2.bias") | {"fc2.bias": torch.zeros(100)},
            r"'fc2.bias' must have shape \[10\], got \[100\]",
        ),
        (
            without("fc2.bias") | {"fc2.bias": torch.full((10,), torch.nan)},
            "holds values that are not finite: 'fc2.bias'",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(
    tmp_path: Path, state: dict[str, Tensor], message: str
) -> None:
    model = network()
    with pytest.raises(ModelError, match=message):
        load_checkpoint(model, write(state, tmp_path / "weights.safetensors"))
    assert same_weights(model, network())


class Hostile:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"fc2.bias": Hostile(tmp_path / "mark")}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="must hold tensors only") as caught:
        load_checkpoint(network(), tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"as safetensors or as torch\.save of a state dict"):
        load_checkpoint(network(), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"root:*:0:0"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}' cannot be loaded"):
        load_checkpoint(network(), tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "must hold a state dict, got list"),
        ({}, "must hold a state dict, got dict"),
        ({"fc2.bias": 3}, "must map names to tensors, but 'fc2.bias' is int"),
    ],
)
def test_a_file_without_named_tensors_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=message):
        load_checkpoint(network(), tmp_path / "weights.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint file .*weights\.pt"):
        load_checkpoint(network(), tmp_path / "weights.pt")
