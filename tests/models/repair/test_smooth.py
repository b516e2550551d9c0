import pytest
import torch
from torch import nn

from bitfront.models import build_model
from bitfront.models.config import QuantizerConfig
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.repair import smooth as module
from bitfront.models.repair.smooth import smooth
from bitfront.spaces import BitAllocation, ModelError

SHAPE = (1, 8, 8)


def tokens(count=8, seed=0):
    return torch.randn(count, 5, 4, generator=torch.Generator().manual_seed(seed))


def outlying(network):
    """Give every norm a channel that is far larger than the others, as transformers have."""
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.weight[0], norm.bias[1] = 30.0, 10.0
    return network.eval()


class Pair(nn.Module):
    """Two linear layers that read one norm, and one that reads another."""

    def __init__(self, extra=lambda net, x: 0):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.last = nn.LayerNorm(4), nn.LayerNorm(4)
        self.q, self.v, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self._extra = extra

    def forward(self, x):
        y = self.norm(x)
        return self.head(self.last(torch.tanh(self.q(y)) + self.v(y) + self._extra(self, y)))


def wrapped(network):
    network = outlying(network)
    return QuantizedModel(network, profile(network, (5, 4))).network


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_readers_of_a_norm_share_the_factor_of_the_paper(alpha):
    network = wrapped(Pair())
    x = tokens()
    with torch.no_grad():
        before, inputs = network(x), network.norm(x)
        weights = torch.cat([network.q.inner.weight, network.v.inner.weight]).clone()
        old = network.norm.weight.clone()
        found = smooth(network, x.split(3), x[:1], alpha)
        assert found == {"norm": ["q", "v"], "last": ["head"]}
        spread = inputs.abs().amax((0, 1))
        factor = spread**alpha / weights.abs().amax(0) ** (1 - alpha)
        torch.testing.assert_close(network.norm.weight, old / factor)
        new = torch.cat([network.q.inner.weight, network.v.inner.weight])
        torch.testing.assert_close(new, weights * factor)
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
        if alpha == 1:
            largest = network.norm(x).abs().amax((0, 1))
            torch.testing.assert_close(largest, torch.ones(4))


@pytest.mark.parametrize(
    "extra", [lambda net, y: y, lambda net, y: net.q(y)], ids=["residual", "used twice"]
)
def test_a_norm_that_others_read_is_left_alone(extra):
    assert smooth(wrapped(Pair(extra)), [tokens()], tokens(1), 0.5) == {"last": ["head"]}


def test_a_network_without_norms_is_left_alone():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert smooth(wrapped(network), [tokens()], tokens(1), 0.5) == {}


def test_a_changed_output_is_refused(monkeypatch):
    monkeypatch.setattr(module, "scale_inputs", lambda *args: None)
    with pytest.raises(ModelError, match="smoothing moved the output"):
        smooth(wrapped(Pair()), [tokens()], tokens(1), 0.5)


def test_a_transformer_loses_less_to_quantized_activations():
    network = build_model("vit_tiny_patch4", classes=10, input_shape=SHAPE)
    *_, head = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    network = outlying(network)
    x = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    errors = []
    for alpha in (None, 0.5):
        model = QuantizedModel(network, profile(network, SHAPE), QuantizerConfig(smoothing=alpha))
        model.calibrate([x[:8], x[8:]])
        with torch.inference_mode():
            full = network(x)
            torch.testing.assert_close(model(x), full, rtol=1e-3, atol=1e-3)
            model.set_allocation(BitAllocation.uniform(model.layers, 6))
            errors.append(float((model(x) - full).norm()))
    assert errors[1] < 0.9 * errors[0]


def test_real_digits_keep_their_weights_where_there_is_no_norm(digits_case):
    plain, smoothed = digits_case.quantized(), digits_case.quantized(smoothing=0.5)
    for name, layer in plain.quantized_layers.items():
        assert torch.equal(layer.inner.weight, smoothed.quantized_layers[name].inner.weight)
