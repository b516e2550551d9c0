import numpy as np
import torch

from bitfront.models.augment import random_crop, random_flip, shuffled_batches
from bitfront.models.images import ImageSet


def test_crops_are_shifts_with_zeros_from_outside() -> None:
    images = torch.arange(1.0, 33.0).reshape(2, 1, 4, 4)
    generator = torch.Generator().manual_seed(0)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    shifts = set()
    for _ in range(40):
        for index, crop in enumerate(random_crop(images, 1, generator)):
            windows = {
                (top, left): padded[index, :, top : top + 4, left : left + 4]
                for top in range(3)
                for left in range(3)
            }
            found = [shift for shift, window in windows.items() if torch.equal(crop, window)]
            assert len(found) == 1
            shifts.add(found[0])
    assert len(shifts) == 9


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.rand(400, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250


def test_the_generator_decides() -> None:
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def changed(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return random_flip(random_crop(images, 2, generator), generator)

    assert torch.equal(changed(0), changed(0))
    assert not torch.equal(changed(0), changed(1))


def indexed(count: int) -> ImageSet:
    """Images that say which one they are, all around their label."""
    numbers = np.arange(count, dtype=np.float32)
    pixels = np.broadcast_to(numbers.reshape(-1, 1, 1, 1) + 1, (count, 1, 8, 8))
    return ImageSet(np.array(pixels), np.arange(count), (0.0,), (1.0,))


def test_a_pass_has_every_image_once_in_full_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = list(shuffled_batches(indexed(23), 5, "none", generator))
    labels = torch.cat([labels for _, labels in batches])
    assert [len(images) for images, _ in batches] == [5, 5, 5, 5]
    assert len(labels.unique()) == 20
    assert labels.tolist() != sorted(labels.tolist())
    for images, of in batches:
        assert torch.equal(images[:, 0, 0, 0], of + 1.0)


def test_passes_follow_the_generator() -> None:
    def order(seed: int, passes: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [
            [
                label
                for _, labels in shuffled_batches(indexed(12), 4, "crop-flip", generator)
                for label in labels.tolist()
            ]
            for _ in range(passes)
        ]

    assert order(0, 2) == order(0, 2) != order(1, 2)
    assert order(0, 2)[0] != order(0, 2)[1]


def test_augmented_images_keep_their_labels_and_the_set_stays() -> None:
    images = indexed(12)
    before = images.digest
    generator = torch.Generator().manual_seed(0)
    moved = False
    for batch, labels in shuffled_batches(images, 4, "crop", generator):
        assert torch.equal(batch.amax((1, 2, 3)), labels + 1.0)
        moved |= bool((batch == 0).any())  # what comes in from outside
    assert moved
    assert ImageSet(images.images, images.labels, (0.0,), (1.0,)).digest == before
