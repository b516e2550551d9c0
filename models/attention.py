"""The two matrix products of timm's attention, as modules that can be counted and quantized.

timm computes ``softmax(q k^T / sqrt(d)) v`` in one fused call, where neither product can be seen.
`expose_matmuls` exchanges each ``timm.layers.Attention`` for a module with the same parts under
the same names, and two more: ``qk`` (left operand: scaled queries) and ``av`` (left operand: the
attention weights).
"""

from typing import Any

import torch
from torch import Tensor, nn

from .surgery import replace_modules

_TIMM_HOMES = ("timm.layers.attention", "timm.models.vision_transformer")


class MatMul(nn.Module):
    """The product of two activations, as a module.

    A model of one's own that multiplies activations is quantized there too if it calls this.
    """

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left @ right``."""
        return left @ right


class ExplicitAttention(nn.Module):
    """Multi-head self-attention whose two matrix products are modules.

    Args:
        attention: A ``timm.layers.Attention``; its parts are taken over, not copied.
    """

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Module
    proj: nn.Module
    proj_drop: nn.Module

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        for name, child in attention.named_children():
            self.add_module(name, child)
        self.num_heads = int(attention.num_heads)  # type: ignore[arg-type]
        self.scale = float(attention.scale)  # type: ignore[arg-type]
        self.qk = MatMul()
        self.av = MatMul()
        self.training = attention.training

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Return what timm's attention returns.

        Args:
            x: ``batch x tokens x features``.
            attn_mask: Boolean (True takes part) or additive mask, broadcast to
                ``batch x heads x tokens x tokens``.
            is_causal: Hide later tokens; takes precedence over the mask.
        """
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = self.qk(self.q_norm(q) * self.scale, self.k_norm(k).transpose(-2, -1))
        scores = _masked(scores, attn_mask, is_causal)
        out = self.av(self.attn_drop(scores.softmax(dim=-1)), v)
        out = out.transpose(1, 2).reshape(batch, tokens, -1)
        if (norm := getattr(self, "norm", None)) is not None:
            out = norm(out)
        if (gate := getattr(self, "gate", None)) is not None:
            out = out * gate(x).sigmoid()
        result: Tensor = self.proj_drop(self.proj(out))
        return result


def _masked(scores: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    return scores + mask


def expose_matmuls(model: nn.Module) -> nn.Module:
    """Exchange every timm attention in a tree for an `ExplicitAttention`.

    Variants with another forward (relative positions, rotary embeddings, windows) are left alone:
    their linear layers are quantized, their products stay in float.

    Args:
        model: The tree; changed in place.

    Returns:
        The tree.
    """
    found: dict[nn.Module, nn.Module] = {
        module: ExplicitAttention(module) for module in model.modules() if _is_timm(module)
    }
    return replace_modules(model, found)


def _is_timm(module: nn.Module) -> bool:
    # By name, so that a network without attention never imports timm. A subclass may compute
    # something else, hence no isinstance.
    kind: type[Any] = type(module)
    return kind.__name__ == "Attention" and kind.__module__ in _TIMM_HOMES
