"""A vision transformer for small images, that trains in minutes.

Dosovitskiy et al.: "An Image is Worth 16x16 Words", arXiv:2010.11929; timm's implementation.
Beyer, Zhai, Kolesnikov: "Better plain ViT baselines for ImageNet-1k", arXiv:2205.01580, for what
makes it learn sooner: positions that start as 2-D sines, and a mean over the tokens instead of a
class token.
"""

from typing import Any

from torch import nn

from ..spaces import ModelError
from .torchvision_ops import declare_missing_operators

_PATCH = 4
_SIZE = {"embed_dim": 128, "depth": 5, "num_heads": 4}


def vit_tiny_patch4(classes: int, input_shape: tuple[int, int, int], **settings: Any) -> nn.Module:
    """Build a transformer of 5 blocks, 128 features and 4 heads: about a million parameters.

    Patches are 4x4: 49 tokens for a 28x28 image, 64 for 32x32.

    Args:
        classes: Outputs.
        input_shape: Channels, height and width of an image; height and width divisible by 4.
        **settings: ``embed_dim``, ``depth`` and ``num_heads``, or further arguments of timm's
            ``VisionTransformer``.

    Raises:
        ModelError: If the image cannot be cut into whole patches.
    """
    declare_missing_operators()
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
    from timm.models.vision_transformer import VisionTransformer

    channels, height, width = input_shape
    if height % _PATCH or width % _PATCH:
        raise ModelError(
            f"vit_tiny_patch4 needs images whose sides are divisible by {_PATCH}, "
            f"got {height}x{width}"
        )
    model: nn.Module = VisionTransformer(
        img_size=(height, width),
        patch_size=_PATCH,
        in_chans=channels,
        num_classes=classes,
        class_token=False,
        global_pool="avg",
        weight_init="jax",
        **(_SIZE | settings),
    )
    grid = [height // _PATCH, width // _PATCH]
    positions = model.get_parameter("pos_embed")
    positions.data.copy_(build_sincos2d_pos_embed(grid, positions.shape[-1]))
    return model
