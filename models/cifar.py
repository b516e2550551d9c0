"""CIFAR-10 and CIFAR-100, from the official Python files or some of them.

Krizhevsky: "Learning Multiple Layers of Features from Tiny Images", 2009.

The files are pickles, and a pickle can run any program. torchvision's classes unpickle them after
comparing checksums, and refuse a folder that lacks a file. Here a folder may hold some of the
files, or re-packed ones, so they are read by an unpickler that makes numpy arrays and plain values
and nothing else.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces import DataError
from .sources import ArraySource, Dataset


@dataclass(frozen=True)
class CifarLayout:
    """The names in one of the two data sets' folders, and its statistics."""

    title: str
    folder: str
    train_files: tuple[str, ...]
    test_file: str
    label_key: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10 = CifarLayout(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_file="test_batch",
    label_key="labels",
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = CifarLayout(
    title="CIFAR-100",
    folder="cifar-100-python",
    train_files=("train",),
    test_file="test",
    label_key="fine_labels",
    classes=100,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)
_OFFICIAL_TRAIN, _OFFICIAL_TEST = 50_000, 10_000


def read_cifar(layout: CifarLayout, root: Path) -> Dataset:
    """Read what a folder holds of CIFAR-10 or CIFAR-100.

    Args:
        layout: Which of the two.
        root: The folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.

    Returns:
        Training and test part, with a note where they are not the complete official ones.

    Raises:
        DataError: If there is no training file or no test file, or a file is malformed.
    """
    folder = root / layout.folder
    found = [name for name in layout.train_files if (folder / name).is_file()]
    if not found or not (folder / layout.test_file).is_file():
        raise DataError(
            f"no {layout.title} in {str(folder)!r}: expected {layout.test_file!r} and at least one "
            f"of {', '.join(map(repr, layout.train_files))}; set data.root or BITFRONT_DATA to the "
            f"folder that holds {layout.folder!r}"
        )
    batches = [_read_batch(folder / name, layout) for name in found]
    train = ArraySource(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )
    test = _read_batch(folder / layout.test_file, layout)
    notes = []
    if (len(train.labels), len(test.labels)) != (_OFFICIAL_TRAIN, _OFFICIAL_TEST):
        notes.append(
            f"{layout.title} is incomplete: found {', '.join([*found, layout.test_file])} with "
            f"{len(train.labels):,} training and {len(test.labels):,} test images "
            f"(officially {_OFFICIAL_TRAIN:,} and {_OFFICIAL_TEST:,})"
        )
    return Dataset(train, test, layout.classes, layout.mean, layout.std, tuple(notes))


def _read_batch(path: Path, layout: CifarLayout) -> ArraySource:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        pixels = np.asarray(content["data"])
        labels = np.asarray(content[layout.label_key], dtype=np.int64)
        well_formed = (
            pixels.dtype == np.uint8
            and pixels.shape == (len(labels), 3072)
            and labels.min() >= 0
            and labels.max() < layout.classes
        )
    except DataError:
        raise
    except Exception as error:  # A damaged pickle raises almost anything.
        raise DataError(
            f"{str(path)!r} is not a {layout.title} file: {type(error).__name__}: {error}"
        ) from None
    if not well_formed:
        raise DataError(
            f"{str(path)!r} is not a {layout.title} file: expected uint8 data [n, 3072] and "
            f"n labels below {layout.classes}, got {pixels.dtype} {list(pixels.shape)} and "
            f"{len(labels)} labels"
        )
    return ArraySource(pixels.reshape(-1, 3, 32, 32), labels)


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for ``codecs.encode``, as which Python 3 writes bytes into old pickles."""
    if encoding != "latin1":
        raise ValueError(f"unexpected encoding {encoding!r}")
    return text.encode(encoding)


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Loads plain values and numpy arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"a data file asks for {module}.{name}: only numpy arrays and plain values are "
                "read from pickles; replace the file by the original one"
            )
        return _ALLOWED[module, name]
