"""The three disjoint splits of a fair comparison: training with calibration, search, test.

Strategies calibrate and train on the first, select on the second, and are reported on the third.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..spaces import DataError
from .config import DataConfig
from .images import ImageSet, Indices, Labels
from .sources import Dataset, Source


@dataclass(frozen=True, eq=False)
class SplitIndices:
    """Which images of a data set's parts go where.

    Attributes:
        train: Images to train on, from the training part; they contain the calibration images.
        calibration: Images for observers and sensitivities, from the training part.
        search: Images to score searches on, from the training part or the test part.
        test: Images to report on, from the test part.
        one_part: Whether the training part and the test part are the same.
        search_is_test_part: Whether the search images are from the test part.

    Raises:
        DataError: If the splits overlap or one is empty.
    """

    train: Indices
    calibration: Indices
    search: Indices
    test: Indices
    one_part: bool
    search_is_test_part: bool = False

    def __post_init__(self) -> None:
        parts = [{"train": self.train}, {"test": self.test}]
        if self.one_part:
            parts = [{"train": self.train, "test": self.test}]
        parts[-1 if self.search_is_test_part else 0]["search"] = self.search
        if not np.isin(self.calibration, self.train).all():
            raise DataError("calibration images must be training images")
        for name in ("train", "calibration", "search", "test"):
            indices = getattr(self, name)
            if len(indices) == 0:
                raise DataError(f"no images are left for the {name} split")
            if len(np.unique(indices)) != len(indices):
                raise DataError(f"the {name} split holds an image twice")
        for splits in parts:
            together = np.concatenate(list(splits.values()))
            if len(np.unique(together)) != len(together):
                raise DataError(f"the splits {', '.join(splits)} share images")


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a study.

    Attributes:
        calibration: Images for observers and sensitivities; also in `train`.
        search: Images to score searches on; in neither of the others.
        test: Images to report on; in neither of the others.
        classes: Number of classes.
        input_shape: Channels, height and width of one image.
        notes: What a reader of the results should know of the data.
        indices: Which images they are.
        training_part: Where `train` is read from.
        normalisation: Mean and standard deviation per channel.
    """

    calibration: ImageSet
    search: ImageSet
    test: ImageSet
    classes: int
    input_shape: tuple[int, int, int]
    notes: tuple[str, ...]
    indices: SplitIndices
    training_part: Source
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]

    @cached_property
    def train(self) -> ImageSet:
        """Images to train on; read when first asked for, since not every study trains."""
        return self.train_beginning(None)

    def train_beginning(self, count: int | None) -> ImageSet:
        """Return the first images to train on, with the classes in their natural shares.

        Args:
            count: How many; all if None.
        """
        return _read(self.training_part, self.indices.train[:count], self.normalisation)


def draw_splits(dataset: Dataset, config: DataConfig) -> SplitIndices:
    """Draw the splits of a data set, each with the classes in their natural shares.

    Args:
        dataset: Its labels and parts.
        config: How many images go where, and the seed.

    Raises:
        DataError: If there are too few images.
    """
    rng = np.random.default_rng(config.seed)
    one_part = dataset.test is None
    order = stratified_order(dataset.train.labels, rng)
    calibration, rest = _cut(order, config.calibration_images, "calibration")
    if dataset.test is not None and config.search_part == "test":
        unseen = stratified_order(dataset.test.labels, rng)
        count = config.search_images or max(min(2000, len(unseen) // 5), 1)
        search, unseen = _cut(unseen, count, "search")
        test, _ = _cut(unseen, config.test_images or len(unseen), "test")
        return SplitIndices(order, calibration, search, test, one_part, search_is_test_part=True)
    default = len(rest) * 2 // 5 if one_part else min(2000, len(order) // 5)
    search, rest = _cut(rest, config.search_images or max(default, 1), "search")
    if dataset.test is None:
        train = calibration
        test, _ = _cut(rest, config.test_images or len(rest), "test")
    else:
        train = np.concatenate([calibration, rest])
        test = np.arange(len(dataset.test.labels))
        if config.test_images is not None:
            test, _ = _cut(stratified_order(dataset.test.labels, rng), config.test_images, "test")
    return SplitIndices(train, calibration, search, test, one_part)


def read_splits(dataset: Dataset, config: DataConfig) -> Splits:
    """Draw the splits of a data set and read their images."""
    indices = draw_splits(dataset, config)
    normalisation = (config.mean or dataset.mean, config.std or dataset.std)
    test_part = dataset.train if dataset.test is None else dataset.test
    calibration = _read(dataset.train, indices.calibration, normalisation)
    return Splits(
        calibration=calibration,
        search=_read(
            test_part if indices.search_is_test_part else dataset.train,
            indices.search,
            normalisation,
        ),
        test=_read(test_part, indices.test, normalisation),
        classes=dataset.classes,
        input_shape=calibration.shape,
        notes=dataset.notes,
        indices=indices,
        training_part=dataset.train,
        normalisation=normalisation,
    )


def stratified_order(labels: Labels, rng: np.random.Generator) -> Indices:
    """Return a random order of which every beginning has the classes in their natural shares.

    An image of a class with n images stands at a random place in one of n equal stretches of the
    order, one image per stretch.

    Args:
        labels: ``[n]`` class labels.
        rng: Source of randomness.
    """
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    classes = labels[by_class]
    rank = np.arange(len(labels)) - starts[classes]
    place = (rank + rng.random(len(labels))) / counts[classes]
    return by_class[np.argsort(place, kind="stable")]


def _cut(order: Indices, count: int, split: str) -> tuple[Indices, Indices]:
    """Return the first ``count`` of ``order`` and what is left."""
    if count > len(order):
        raise DataError(
            f"{count} images were asked for the {split} split, but only {len(order)} are left"
        )
    return order[:count], order[count:]


def _read(
    part: Source, indices: Indices, normalisation: tuple[tuple[float, ...], tuple[float, ...]]
) -> ImageSet:
    mean, std = normalisation
    return ImageSet(part.read(indices), part.labels[indices], mean, std)
