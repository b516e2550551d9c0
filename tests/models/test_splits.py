from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfront.models import DataConfig, SplitIndices
from bitfront.models.sources import ArraySource, Dataset
from bitfront.models.splits import Splits, draw_splits, read_splits, stratified_order
from bitfront.spaces import DataError


def part(n: int, first: int = 0, classes: int = 5) -> ArraySource:
    """Images whose only pixels are their number, so that an image is found again."""
    number = np.arange(first, first + n, dtype=np.float32)
    return ArraySource(number.reshape(-1, 1, 1, 1), np.arange(n) % classes)


def dataset(train: int, test: int | None) -> Dataset:
    test_part = None if test is None else part(test, first=100_000)
    return Dataset(part(train), test_part, 5, (0.0,), (1.0,))


def numbers(splits: Splits) -> dict[str, set[int]]:
    names = ("train", "calibration", "search", "test")
    return {name: set(getattr(splits, name).images.flatten().astype(int)) for name in names}


@given(
    train=st.integers(50, 300),
    test=st.none() | st.integers(10, 100),
    calibration=st.integers(1, 20),
    search=st.none() | st.integers(1, 10),
    source=st.sampled_from(["train", "test"]),
    seed=st.integers(0, 5),
)
def test_the_three_splits_share_no_image(
    train: int,
    test: int | None,
    calibration: int,
    search: int | None,
    source: Literal["train", "test"],
    seed: int,
) -> None:
    test = 2 * test if test is not None and source == "test" else test
    config = DataConfig(
        calibration_images=calibration, search_images=search, search_part=source, seed=seed
    )
    drawn = numbers(read_splits(dataset(train, test), config))
    assert drawn["calibration"] <= drawn["train"]
    assert not drawn["train"] & drawn["search"]
    assert not drawn["test"] & (drawn["train"] | drawn["search"])
    assert len(drawn["calibration"]) == calibration
    assert len(drawn["train"] | drawn["search"] | drawn["test"]) == train + (test or 0)


def test_the_default_sizes_with_an_official_test_part() -> None:
    indices = draw_splits(dataset(20_000, 50), DataConfig())
    sizes = [len(getattr(indices, n)) for n in ("train", "calibration", "search", "test")]
    assert sizes == [18_000, 256, 2000, 50]
    assert indices.test.tolist() == list(range(50)), "the whole test part keeps its order"
    assert len(draw_splits(dataset(1000, 50), DataConfig()).search) == 200


def test_search_images_may_be_ones_no_network_saw() -> None:
    config = DataConfig(calibration_images=20, search_images=30, search_part="test")
    drawn = numbers(read_splits(dataset(200, 100), config))
    assert drawn["train"] == set(range(200))
    assert drawn["search"] | drawn["test"] == set(range(100_000, 100_100))
    assert (len(drawn["search"]), len(drawn["test"])) == (30, 70)
    with pytest.raises(DataError, match="only 100 are left"):
        read_splits(
            dataset(200, 100),
            DataConfig(calibration_images=9, search_images=101, search_part="test"),
        )
    with pytest.raises(DataError, match="no images are left for the test split"):
        draw_splits(
            dataset(200, 100),
            DataConfig(calibration_images=9, search_images=100, search_part="test"),
        )
    with pytest.raises(DataError, match="search_part must be 'train' or 'test', got 'all'"):
        DataConfig(search_part="all")  # type: ignore[arg-type]


def test_the_default_sizes_of_one_part() -> None:
    indices = draw_splits(dataset(1256, None), DataConfig())
    sizes = [len(getattr(indices, n)) for n in ("train", "calibration", "search", "test")]
    assert sizes == [256, 256, 400, 600]


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> list[int]:
        return draw_splits(dataset(1000, 100), DataConfig(seed=seed)).search.tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_every_beginning_of_the_order_holds_the_classes_in_their_shares(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(labels, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    beginning = labels[order[: round(share * len(labels))]]
    for label, count in enumerate(counts):
        expected = count * len(beginning) / len(labels)
        # Each class is at most one image off its stretch, and so are the others together.
        assert abs((beginning == label).sum() - expected) <= len(counts)


def test_equal_classes_are_drawn_equally() -> None:
    indices = draw_splits(dataset(500, 100), DataConfig(calibration_images=50, test_images=20))
    assert np.bincount(indices.calibration % 5).tolist() == [10] * 5
    assert np.bincount(indices.test % 5).tolist() == [4] * 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(calibration_images=500), "500 images were asked for the calibration split"),
        (DataConfig(calibration_images=50, search_images=51), "only 50 are left"),
        (DataConfig(calibration_images=10, test_images=31), "31 images were asked for the test"),
    ],
)
def test_more_images_than_there_are_cannot_be_asked_for(config: DataConfig, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_splits(dataset(100, 30), config)


def test_search_may_not_use_up_the_only_part() -> None:
    with pytest.raises(DataError, match="no images are left for the test split"):
        draw_splits(dataset(100, None), DataConfig(calibration_images=50, search_images=50))


@pytest.mark.parametrize(
    ("train", "calibration", "search", "test", "message"),
    [
        ([0, 1], [0], [1], [5], "the splits train, test, search share images"),
        ([0, 1], [0], [2], [2], "share images"),
        ([0, 1], [2], [3], [5], "calibration images must be training images"),
        ([0, 0], [0], [3], [5], "the train split holds an image twice"),
        ([0, 1], [0], [], [5], "no images are left for the search split"),
    ],
)
def test_splits_that_overlap_cannot_be_made(
    train: list[int], calibration: list[int], search: list[int], test: list[int], message: str
) -> None:
    arrays = [np.array(split, dtype=np.int64) for split in (train, calibration, search, test)]
    with pytest.raises(DataError, match=message):
        SplitIndices(*arrays, one_part=True)


def test_two_parts_may_use_the_same_numbers() -> None:
    one, two = np.array([0]), np.array([1])
    assert SplitIndices(one, one, two, one, one_part=False).test is one
