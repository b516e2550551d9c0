import torch

from bitfront.models.correction import Correction

CORRECTION = Correction(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))


def test_scales_and_bias_take_it_up_by_hand() -> None:
    absorbed = CORRECTION.absorbed(torch.tensor([3.0, 4.0]), torch.tensor([10.0, 20.0]))
    assert absorbed["scales"].tolist() == [6.0, 2.0]
    assert absorbed["bias"].tolist() == [21.0, 9.0]


def test_a_layer_without_a_bias_gets_one() -> None:
    absorbed = CORRECTION.absorbed(torch.tensor([3.0, 4.0]), None)
    assert absorbed["bias"].tolist() == [1.0, -1.0]


def test_an_output_is_corrected_along_its_channels() -> None:
    images = torch.ones(3, 2, 4, 5)
    assert CORRECTION(images, -3)[:, :, 0, 0].tolist() == [[3.0, -0.5]] * 3
    assert CORRECTION(torch.ones(3, 2), -1).tolist() == [[3.0, -0.5]] * 3
    CORRECTION.apply_(images, -3)
    assert images[:, :, 0, 0].tolist() == [[3.0, -0.5]] * 3
