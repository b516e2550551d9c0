import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitfront.models import DataConfig, load_data
from bitfront.models.cifar import CIFAR10, CIFAR100, read_cifar
from bitfront.spaces import DataError


def batch(n: int, first: int = 0) -> dict[str, Any]:
    data = np.repeat(np.arange(first, first + n, dtype=np.uint8)[:, None], 3072, axis=1)
    return {"data": data, "labels": [i % 10 for i in range(n)], "batch_label": "a batch"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in {
        "data_batch_1": batch(20),
        "data_batch_3": batch(10, first=20),
        "test_batch": batch(5, first=100),
    }.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def test_a_folder_with_some_of_the_files_is_read_with_a_note(folder: Path) -> None:
    dataset = read_cifar(CIFAR10, folder.parent)
    images = dataset.train.read(np.arange(30))
    assert images.shape == (30, 3, 32, 32)
    assert images[:, 0, 0, 0].tolist() == list(range(30))
    assert dataset.notes == (
        "CIFAR-10 is incomplete: found data_batch_1, data_batch_3, test_batch with 30 training and "
        "5 test images (officially 50,000 and 10,000)",
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL))
def test_every_protocol_up_to_4_is_read(folder: Path, protocol: int) -> None:
    (folder / "test_batch").write_bytes(pickle.dumps(batch(5, first=7), protocol=protocol))
    test = read_cifar(CIFAR10, folder.parent).test
    assert test is not None
    assert test.read(np.arange(5))[:, 2, 31, 31].tolist() == [7, 8, 9, 10, 11]


def test_channels_are_planes(folder: Path) -> None:
    content = batch(1)
    content["data"] = np.arange(3072, dtype=np.int64).astype(np.uint8)[None]
    (folder / "test_batch").write_bytes(pickle.dumps(content))
    test = read_cifar(CIFAR10, folder.parent).test
    assert test is not None
    assert test.read(np.array([0]))[0, 1, 2, 3] == (1024 + 2 * 32 + 3) % 256


class Hostile:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_pickle_is_refused_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    content = batch(5) | {"filenames": Hostile(tmp_path / "mark")}
    (folder / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="only numpy arrays and plain values are read from pickles"):
        read_cifar(CIFAR10, folder.parent)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [0]},
        {"data": np.zeros((1, 3072)), "labels": [0]},
        {"data": np.zeros((1, 100), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
        {"data": np.zeros((0, 3072), np.uint8), "labels": []},
        [1, 2],
    ],
)
def test_a_malformed_file_is_named(folder: Path, content: object) -> None:
    (folder / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="test_batch' is not a CIFAR-10 file"):
        read_cifar(CIFAR10, folder.parent)


def test_a_damaged_file_is_named(folder: Path) -> None:
    content = (folder / "test_batch").read_bytes()
    (folder / "test_batch").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="test_batch' is not a CIFAR-10 file"):
        read_cifar(CIFAR10, folder.parent)


def test_a_folder_without_the_files_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 'test' and at least one of 'train'.*BITFRONT"):
        read_cifar(CIFAR100, tmp_path)


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [("cifar10", 8000, 10_000, 10), ("cifar100", 5600, 5000, 100)],
)
def test_the_public_files_are_read(
    shared_data: Path, name: str, train: int, test: int, classes: int
) -> None:
    splits = load_data(DataConfig(name=name))
    assert (len(splits.train), len(splits.test), splits.classes) == (train, test, classes)
    assert splits.input_shape == (3, 32, 32)
    assert len(np.unique(splits.train.labels)) == classes
    pixels, _ = splits.search.batch(slice(None))
    assert pixels.mean().item() == pytest.approx(0, abs=0.05)
    assert pixels.std().item() == pytest.approx(1, abs=0.05)
