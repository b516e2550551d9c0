import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy


@pytest.mark.usefixtures("batches_of_three")
@pytest.mark.parametrize("kind", ["sqnr", "kl", "loss"])
def test_a_sweep_gives_what_one_network_at_a_time_gives(network, kind):
    found = network.scores(kind, 2, 8)
    _, _, full = network.run(None, 0)
    for row in range(len(network.model.layers)):
        for operand in (0, 1):
            for bits in (2, 8):
                _, _, quantized = network.run(network.alone(row, operand, bits), row)
                if kind == "sqnr":
                    expected = (full - quantized).square().sum() / full.square().sum()
                elif kind == "kl":
                    p, q = full.softmax(1), quantized.softmax(1)
                    expected = (p * (p / q).log()).sum(1).mean()
                else:
                    expected = cross_entropy(quantized, network.labels) - cross_entropy(
                        full, network.labels
                    )
                value = found.values[row, operand, bits]
                assert value == pytest.approx(float(expected), rel=1e-2, abs=1e-7)
    passes = 1 + 2 * 2 * len(network.model.layers)
    assert (found.images_forward, found.images_backward) == (10 * passes, 0)


def test_signal_to_noise_in_decibels_grows_by_six_for_each_bit(calibrate):
    """The error of a fine uniform quantizer is scale^2 / 12, and the scale is max / (2^(b-1)-1)."""
    layer = nn.Linear(100, 100, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    network = calibrate(nn.Sequential(nn.Flatten(), layer), (100,), 100)
    values = network.scores("sqnr", 6, 7, 8).values
    decibels = -10 * np.log10(values[0, 0, [6, 7, 8]])
    assert np.diff(decibels) == pytest.approx(20 * np.log10([63 / 31, 127 / 63]), abs=0.3)


def test_divergence_needs_no_labels_and_the_loss_does(small):
    kl, loss = small.scores("kl").values, small.scores("loss").values
    small.batches = [(x, (labels + 1) % 5) for x, labels in small.batches]
    np.testing.assert_array_equal(small.scores("kl").values, kl)
    assert not np.allclose(small.scores("loss").values, loss, equal_nan=True)
