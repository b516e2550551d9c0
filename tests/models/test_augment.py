import torch

from bitfront.models.augment import random_crop, random_flip


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
