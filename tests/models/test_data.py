import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront.models import DataConfig, data_names, load_data
from bitfront.models.splits import Splits
from bitfront.spaces import DataError


@pytest.fixture(autouse=True)
def no_data_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "shared_data" not in request.fixturenames:
        monkeypatch.delenv("BITFRONT_DATA", raising=False)


def test_digits_are_embedded(digits: Splits) -> None:
    assert (len(digits.train), len(digits.search), len(digits.test)) == (959, 239, 599)
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == 10
    assert np.bincount(digits.test.labels).min() > 50
    pixels, _ = digits.train.batch(slice(None))
    assert pixels.mean().item() == pytest.approx(0, abs=0.01)
    assert pixels.std().item() == pytest.approx(1, abs=0.01)


def test_digits_are_the_same_every_time(digits: Splits) -> None:
    again = load_data(DataConfig(name="digits"))
    for split in ("train", "calibration", "search", "test"):
        assert getattr(again, split).digest == getattr(digits, split).digest
    assert load_data(DataConfig(seed=1)).search.digest != digits.search.digest


def test_small_images_can_be_made_larger() -> None:
    splits = load_data(DataConfig(image_size=28, search_images=3, test_images=4))
    assert splits.input_shape == (1, 28, 28)
    assert splits.test.images.shape == (4, 1, 28, 28)


def test_the_normalisation_can_be_chosen() -> None:
    splits = load_data(DataConfig(mean=(0.5,), std=(0.5,)))
    pixels, _ = splits.search.batch(slice(None))
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)


def write_mnist(root: Path, *, packed: bool, folder: str = "MNIST") -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 10)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.repeat(labels, 28 * 28)
        for name, content in {
            f"{part}-images-idx3-ubyte": struct.pack(">4i", 2051, count, 28, 28) + images.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">2i", 2049, count) + labels.tobytes(),
        }.items():
            if packed:
                (raw / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (raw / name).write_bytes(content)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_packed_or_not_from_a_folder_that_cannot_be_written(
    tmp_path: Path, packed: bool
) -> None:
    write_mnist(tmp_path, packed=packed)
    (tmp_path / "MNIST" / "raw").chmod(0o500)
    before = sorted(tmp_path.rglob("*"))
    splits = load_data(DataConfig(name="mnist", root=str(tmp_path), calibration_images=20))
    assert (len(splits.train), len(splits.search), len(splits.test)) == (32, 8, 10)
    assert splits.input_shape == (1, 28, 28)
    assert (splits.train.images[:, 0, 5, 5] == splits.train.labels).all()
    assert sorted(tmp_path.rglob("*")) == before


def test_fashion_mnist_has_a_folder_of_its_own(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True, folder="FashionMNIST")
    config = DataConfig(name="fashion-mnist", root=str(tmp_path), calibration_images=20)
    splits = load_data(config)
    assert len(splits.test) == 10
    assert (splits.test.mean, splits.test.std) == ((0.2860,), (0.3530,))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz' cannot be unpacked"):
        load_data(DataConfig(name="mnist", root=str(tmp_path)))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "oxford-pets"])
def test_missing_files_are_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no .* in .*set data\.root or BITFRONT_DATA"):
        load_data(DataConfig(name=name, root=str(tmp_path)))


def write_folder(root: Path, classes: int, per_class: int) -> None:
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(per_class):
            grey = label * 16 + number
            image = Image.new("RGB", (40, 30), (grey, grey, grey))
            image.save(root / f"class{label}" / f"{number}.png")


def folder_config(root: Path, **settings: int) -> DataConfig:
    numbers = {"calibration_images": 4, "image_size": 16} | settings
    return DataConfig(name="image-folder", root=str(root), **numbers)


def test_a_folder_of_images_is_one_part(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=4, per_class=6)
    splits = load_data(folder_config(tmp_path))
    assert [len(s) for s in (splits.train, splits.search, splits.test)] == [4, 8, 12]
    assert splits.classes == 4
    assert splits.input_shape == (3, 16, 16)
    assert splits.test.images.dtype == np.uint8
    assert (splits.test.images[:, 0, 0, 0] // 16 == splits.test.labels).all()


def test_only_the_images_of_a_split_are_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", classes=2, per_class=10)
    write_folder(tmp_path / "val", classes=2, per_class=3)
    config = folder_config(tmp_path, search_images=4)
    needed = load_data(config).indices
    images = sorted((tmp_path / "train").rglob("*.png"))
    for index in set(range(20)) - {*needed.calibration.tolist(), *needed.search.tolist()}:
        images[index].write_bytes(b"not an image")
    splits = load_data(config)
    assert len(splits.test) == 6
    with pytest.raises(DataError, match=r"image \d+ cannot be read: .*\.png"):
        _ = splits.train


def test_splits_travel_to_other_processes(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", classes=2, per_class=10)
    write_folder(tmp_path / "val", classes=2, per_class=3)
    splits = load_data(folder_config(tmp_path))
    arrived: Splits = pickle.loads(pickle.dumps(splits))
    assert arrived.search.digest == splits.search.digest
    assert arrived.train.digest == splits.train.digest


def test_training_and_validation_folders_must_have_the_same_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", classes=3, per_class=2)
    write_folder(tmp_path / "val", classes=2, per_class=2)
    with pytest.raises(DataError, match=r"must hold the same class folders: .'class2'."):
        load_data(folder_config(tmp_path))


def test_a_folder_without_images_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one folder per class"):
        load_data(folder_config(tmp_path))


def test_mnist_is_read(shared_data: Path) -> None:
    splits = load_data(DataConfig(name="mnist"))
    assert (len(splits.indices.train), len(splits.search), len(splits.test)) == (
        58_000,
        2000,
        10_000,
    )
    assert splits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_pets_are_read(shared_data: Path) -> None:
    splits = load_data(
        DataConfig(name="oxford-pets", calibration_images=8, search_images=8, test_images=8)
    )
    assert splits.classes == 37
    assert splits.input_shape == (3, 224, 224)
    assert len(splits.indices.train) == 103


def test_names_are_told() -> None:
    assert {"digits", "mnist", "cifar10", "image-folder"} <= set(data_names())
