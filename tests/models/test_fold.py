import pytest
import torch
from torch import nn

from bitfront.models import build_model
from bitfront.models.fold import fold_batch_norms
from bitfront.spaces import ModelError


def randomised(model):
    """Give batch norms statistics and weights that a wrong fold would show in."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(generator=generator)
    return model.eval()


def example(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


def fold(model, x):
    """Fold a network and hold its output to what it was."""
    with torch.no_grad():
        before = model(x)
    folded = fold_batch_norms(model, x)
    with torch.no_grad():
        torch.testing.assert_close(
            model(x), before, rtol=1e-5, atol=1e-5 * float(before.abs().max())
        )
    return folded


def test_a_fold_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for tensor, value in (
        (conv.weight, 3.0), (conv.bias, 1.0), (norm.weight, 2.0), (norm.bias, 5.0),
        (norm.running_mean, 4.0), (norm.running_var, 0.25),
    ):  # fmt: skip
        nn.init.constant_(tensor, value)
    model = nn.Sequential(conv, norm).eval()
    assert fold_batch_norms(model, torch.ones(1, 1, 1, 1)) == {"1": "0"}
    # 2 (3x + 1 - 4) / 0.5 + 5 = 12x - 7
    assert (conv.weight.item(), conv.bias.item()) == (12.0, -7.0)


@pytest.mark.parametrize(
    ("name", "input_shape", "left"),
    [
        ("cnn5", (1, 8, 8), 0),
        ("resnet20", (3, 32, 32), 0),
        ("resnet18", (3, 32, 32), 0),
        ("timm:mobilenetv2_100", (3, 64, 64), 0),
        ("timm:tf_mobilenetv3_small_100", (3, 64, 64), 0),
        # The norms that stay read a sum.
        ("timm:resnetv2_50", (3, 64, 64), 17),
    ],
)
def test_networks_stay_the_same(name, input_shape, left):
    model = randomised(build_model(name, classes=10, input_shape=input_shape))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    folded = fold(model, example(*input_shape))
    assert len(folded) == len(norms) - left
    remaining = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(remaining) == left


def test_linear_grouped_and_unaffine_layers_are_folded():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.Flatten(),
        nn.Linear(6, 3),
        nn.BatchNorm1d(3),
    )
    assert fold(randomised(model), example(4, 3, 3)) == {"1": "0", "4": "3"}


class Net(nn.Module):
    """A convolution and a batch norm, put together in a way that a test gives."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.other = nn.BatchNorm2d(2)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def residual(net, x):
    y = net.conv(x)
    return net.norm(y) + y


def returned(net, x):
    y = net.conv(x)
    return net.norm(y), y


def viewed(net, x):
    y = net.conv(x)
    return net.norm(y.flip(0))


def changed(net, x):
    return net.norm(net.conv(x).mul_(2))


def two_norms(net, x):
    y = net.conv(x)
    return net.norm(y) + net.other(y)


def called_twice(net, x):
    return net.norm(net.conv(net.conv(x)))


def norm_used_twice(net, x):
    return net.norm(net.norm(net.conv(x)))


def decided(net, x):
    y = net.conv(x)
    return net.norm(y) if y.sum() > 1e9 else net.norm(y) + 1


@pytest.mark.parametrize(
    "forward",
    [residual, returned, viewed, changed, two_norms, called_twice, norm_used_twice, decided],
    ids=lambda f: f.__name__,
)
def test_an_output_with_another_use_is_not_folded(forward):
    model = randomised(Net(forward))
    assert fold_batch_norms(model, example(2, 3, 3)) == {}
    assert isinstance(model.norm, nn.BatchNorm2d)


def test_looking_at_a_shape_is_no_use():
    def shaped(net, x):
        y = net.conv(x)
        assert y.shape[1] == y.size(1) == 2
        return net.norm(y)

    assert fold(randomised(Net(shaped)), example(2, 3, 3)) == {"norm": "conv"}


def test_a_convolution_that_computes_with_other_weights_is_not_folded():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean()
            return nn.functional.conv2d(x, weight, self.bias)

    model = randomised(nn.Sequential(Standardised(2, 2, 1), nn.BatchNorm2d(2)))
    assert fold(model, example(2, 3, 3)) == {}


def test_a_shared_weight_is_not_folded():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    model[2].weight = model[0].weight
    assert fold(randomised(model), example(2, 3, 3)) == {}


def test_a_norm_in_training_or_without_statistics_is_not_folded():
    for norm in (nn.BatchNorm2d(2).train(), nn.BatchNorm2d(2, track_running_stats=False).eval()):
        model = nn.Sequential(nn.Conv2d(2, 2, 1), norm)
        assert fold_batch_norms(model, example(2, 3, 3)) == {}


def test_frozen_weights_stay_frozen():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)).requires_grad_(False)
    fold(randomised(model), example(2, 3, 3))
    assert not model[0].weight.requires_grad and not model[0].bias.requires_grad


def test_an_operation_hidden_from_python_is_found_by_its_effect():
    def hidden(net, x):
        y = net.conv(x)
        with torch._C.DisableTorchFunction():  # as in a compiled function
            kept = 2 * y
        return net.norm(y) + kept

    with pytest.raises(ModelError, match="folding batch norms changed the output"):
        fold_batch_norms(randomised(Net(hidden)), example(2, 3, 3))
