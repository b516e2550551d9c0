import pytest
import torch

from bitfront.models.repair.bias import corrected_bias
from bitfront.spaces import FLOAT_BITS, BitAllocation


def test_it_takes_up_the_mean_error_by_hand():
    weight, points = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.5], [4.0, 4.0]])
    mean = torch.tensor([[10.0, 2.0]])
    assert corrected_bias(weight, points, None, mean).tolist() == [1.0, -10.0]
    bias = torch.tensor([1.0, 1.0])
    assert corrected_bias(weight, points, bias, mean).tolist() == [2.0, -9.0]
    by_group = torch.tensor([[10.0, 2.0], [1.0, 0.0]])
    assert corrected_bias(weight, points, None, by_group).tolist() == [1.0, -1.0]


@pytest.mark.parametrize("rounding", ["nearest", "adaround"])
def test_the_mean_output_of_every_channel_is_that_of_the_float_layer(digits_case, rounding):
    errors = {}
    for correct in (False, True):
        model = digits_case.quantized(rounding=rounding, bias_correction=correct)
        model.set_allocation(None)
        errors[correct] = mean_errors(model, digits_case.data.calibration, 3)
    for name, before in errors[False].items():
        assert errors[True][name] < 0.02 * before + 1e-5


def mean_errors(model, images, bits):
    """Size of the mean error of each layer's channels on the float network's inputs."""
    sums, count = {}, {}

    def note(layer, args, out):
        name = layer.layer.name
        error = layer.compute(args, bits, FLOAT_BITS) - out
        axes = [axis for axis in range(error.dim()) if axis != 1]
        sums[name] = sums.get(name, 0) + error.double().sum(axes)
        count[name] = count.get(name, 0) + error[:, 0].numel()

    model.repair(BitAllocation.uniform(model.layers, bits))
    handles = [layer.register_forward_hook(note) for layer in model.quantized_layers.values()]
    with torch.inference_mode():
        for x, _ in images.batches(64):
            model(x)
    for handle in handles:
        handle.remove()
    return {name: float(total.norm()) / count[name] for name, total in sums.items()}
