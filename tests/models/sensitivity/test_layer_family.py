import numpy as np
import pytest
import torch

WIDTHS = (2, 8)


def places(network):
    return [(r, o, b) for r in range(len(network.model.layers)) for o in (0, 1) for b in WIDTHS]


@pytest.mark.usefixtures("batches_of_three")
@pytest.mark.parametrize("kind", ["output-l2", "mse", "cosine"])
def test_one_pass_gives_what_quantizing_one_operand_at_a_time_gives(network, kind):
    found = network.scores(kind, *WIDTHS)
    for row, operand, bits in places(network):
        _, full, _ = network.run(None, row)
        _, quantized, _ = network.run(network.alone(row, operand, bits), row)
        if kind == "output-l2":
            expected = (full - quantized).norm()
        elif kind == "mse":
            expected = (full - quantized).square().sum() / full.square().sum()
        else:
            cosines = torch.nn.functional.cosine_similarity(
                full.flatten(1), quantized.flatten(1), dim=1
            )
            expected = (1 - cosines).mean()
        assert found.values[row, operand, bits] == pytest.approx(float(expected), rel=1e-3)
    assert (found.images_forward, found.images_backward) == (10, 0)


def test_errors_grow_with_the_number_of_images_unless_they_are_relative(small):
    """`output-l2` is a sum over images, not a mean: twice the images, sqrt(2) times the error."""
    once = {kind: small.scores(kind).values for kind in ("output-l2", "mse", "cosine")}
    small.batches = small.batches * 2
    twice = {kind: small.scores(kind).values for kind in once}
    np.testing.assert_allclose(twice["output-l2"], 2**0.5 * once["output-l2"], rtol=1e-6)
    np.testing.assert_allclose(twice["mse"], once["mse"], rtol=1e-6)
    np.testing.assert_allclose(twice["cosine"], once["cosine"], rtol=1e-6)


def test_a_layer_that_gives_nothing_has_no_error(small):
    for parameter in small.model.network.head.parameters():
        torch.nn.init.zeros_(parameter)
    for kind in ("output-l2", "mse", "cosine"):
        assert (small.scores(kind, 2, 8).values[-1][:, [2, 8]] == 0).all()
