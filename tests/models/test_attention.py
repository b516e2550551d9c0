import pytest
import torch
from torch import nn

from bitfront.models.attention import ExplicitAttention, MatMul, expose_matmuls
from bitfront.models.torchvision_ops import declare_missing_operators

declare_missing_operators()
from timm.layers import Attention, AttentionRope  # noqa: E402

VARIANTS = [
    {},
    {"qkv_bias": True},
    {"qk_norm": True, "norm_layer": nn.LayerNorm},
    {"scale_norm": True, "norm_layer": nn.LayerNorm},
    {"gated": True},
    {"attn_head_dim": 8, "dim_out": 20, "proj_bias": False},
]


def attention(**settings):
    torch.manual_seed(0)
    module = Attention(24, num_heads=3, **settings).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture
def tokens():
    return torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(s) or "plain")
def test_the_output_is_that_of_timm(settings, tokens):
    module = attention(**settings)
    expected = module(tokens)
    torch.testing.assert_close(ExplicitAttention(module)(tokens), expected)


@pytest.mark.parametrize("mask", ["boolean", "additive", "causal"])
def test_masks_mean_what_they_mean_to_timm(mask, tokens):
    module = attention()
    kept = torch.ones(7, 7, dtype=torch.bool).tril(2)
    arguments = {
        "boolean": {"attn_mask": kept},
        "additive": {"attn_mask": torch.randn(7, 7)},
        "causal": {"is_causal": True},
    }[mask]
    expected = module(tokens, **arguments)
    torch.testing.assert_close(ExplicitAttention(module)(tokens, **arguments), expected)


def test_gradients_are_those_of_timm(tokens):
    module = attention()
    ours, theirs = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    module(theirs).square().sum().backward()
    ExplicitAttention(module)(ours).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_parts_keep_their_names_and_their_weights():
    module = attention(qk_norm=True, norm_layer=nn.LayerNorm)
    exposed = expose_matmuls(nn.Sequential(module))[0]
    assert dict(exposed.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert exposed.qkv is module.qkv
    assert isinstance(exposed.qk, MatMul) and isinstance(exposed.av, MatMul)


def test_other_variants_are_left_alone():
    class Own(Attention):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(AttentionRope(24, num_heads=3), Own(24, num_heads=3))
    assert [type(module) for module in expose_matmuls(model)] == [AttentionRope, Own]
