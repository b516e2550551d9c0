import numpy as np
import pytest
import torch
from PIL import Image

from bitfront.models import ImageSet
from bitfront.models.sources import ArraySource, eval_transform, resized
from bitfront.models.torchvision_ops import declare_missing_operators
from bitfront.spaces import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs(n: int = 5, size: int = 8) -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return ImageSet(images, np.arange(n), MEAN, STD)


def test_bytes_are_scaled_and_normalised() -> None:
    images = np.array([[[[0, 51], [102, 255]]]], dtype=np.uint8)
    batch, labels = ImageSet(images, np.array([3]), (0.2,), (0.4,)).batch(slice(None))
    assert batch.dtype == torch.float32
    assert batch.flatten().tolist() == pytest.approx([-0.5, 0.0, 0.5, 2.0], abs=1e-6)
    assert labels.tolist() == [3]
    assert labels.dtype == torch.int64


def test_floats_are_not_scaled() -> None:
    images = np.array([[[[0.2, 1.0]]]], dtype=np.float32)
    batch, _ = ImageSet(images, np.array([0]), (0.2,), (0.4,)).batch(slice(None))
    assert batch.flatten().tolist() == pytest.approx([0.0, 2.0], abs=1e-6)


def test_batches_cover_the_images_in_order_up_to_the_limit() -> None:
    images = photographs(5)
    assert [labels.tolist() for _, labels in images.batches(2)] == [[0, 1], [2, 3], [4]]
    assert [labels.tolist() for _, labels in images.batches(2, limit=3)] == [[0, 1], [2]]
    assert [labels.tolist() for _, labels in images.batches(9, limit=99)] == [[0, 1, 2, 3, 4]]


def test_batches_leave_shared_read_only_arrays_alone() -> None:
    images = photographs()
    before = images.digest
    images.images.flags.writeable = False
    images.labels.flags.writeable = False
    for batch, labels in images.batches(3):
        batch.zero_()
        labels.zero_()
    assert ImageSet(images.images, images.labels, MEAN, STD).digest == before


def test_the_digest_names_the_content() -> None:
    images = photographs()
    assert photographs().digest == images.digest
    assert len(images.digest) == 32
    reversed_ = images.subset(np.arange(5)[::-1])
    relabelled = ImageSet(images.images, images.labels + 1, MEAN, STD)
    renormalised = ImageSet(images.images, images.labels, STD, STD)
    assert len({s.digest for s in (images, reversed_, relabelled, renormalised)}) == 4


@pytest.mark.parametrize(
    ("images", "labels", "mean"),
    [
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64), MEAN),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros(3, np.int64), MEAN),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros(2, np.int64), (0.5,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    images: np.ndarray, labels: np.ndarray, mean: tuple[float, ...]
) -> None:
    with pytest.raises(DataError, match=r"images must be|one value for each of 3 channels"):
        ImageSet(images, labels, mean, mean)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_and_normalising_equals_timms_transform(interpolation: str) -> None:
    declare_missing_operators()
    from timm.data import create_transform

    small = photographs(2, size=32)
    source = resized(ArraySource(small.images, small.labels), 48, 0.875, interpolation)
    ours, _ = ImageSet(source.read(np.arange(2)), small.labels, MEAN, STD).batch(slice(None))
    whole = create_transform(
        (3, 48, 48), mean=MEAN, std=STD, crop_pct=0.875, interpolation=interpolation
    )
    theirs = [whole(Image.fromarray(image.transpose(1, 2, 0))) for image in small.images]
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-6, atol=1e-6)


def test_grey_images_stay_grey_when_resized() -> None:
    grey = ArraySource(np.full((1, 1, 8, 8), 77, np.uint8), np.zeros(1, np.int64))
    assert (resized(grey, 28, None, "bicubic").read(np.array([0])) == 77).all()


def test_the_evaluation_transform_crops_the_middle() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 200
    cropped = np.asarray(eval_transform(10, 1.0, "bilinear")(Image.fromarray(pixels)))
    assert cropped.shape == (3, 10, 10)
    assert (cropped == 200).all()
