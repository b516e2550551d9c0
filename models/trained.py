"""A network that was trained with its quantizers, as a value: kept, sent and measured.

The format is safetensors. Nothing that is read can run code.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..spaces import BitAllocation, Layer, ModelError, SpaceError
from .config import QuantizerConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .quantized import QuantizedModel
    from .quantized_layers import RepairedWeight

FORMAT = "1"
"""Version of the format; another one is not read."""

DEPLOYMENT_VERSION = 1
"""Raise it when `TrainedNetwork.deploy` computes something else of the same network: what was
measured of networks by older code is then measured again."""

STATE = "state/"
"""Beginning of the names of weights and buffers of the float network, batch norms and all."""

INPUT = "input/"
"""Beginning of the names of the ends of layers' inputs, ``[low, high]``."""

RIGHT = "right/"
"""Beginning of the names of the ends of right operands of products, ``[low, high]``."""

SCALE = "scale/"
"""Beginning of the names of the scales of layers' weights, by output channel, before batch norms
are folded; negative where the grid is turned round, with its extra code above zero."""

_REPAIRABLE_BITS = 8
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """What training gave: weights, and the quantizers that they were trained with.

    Attributes:
        allocation: The widths it is to run at.
        arrays: Its numbers, by the names above.
    """

    allocation: BitAllocation
    arrays: Mapping[str, npt.NDArray[Any]]

    @cached_property
    def digest(self) -> str:
        """A hexadecimal name of the content."""
        digest = hashlib.sha256(self.allocation.key.encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def to_bytes(self) -> bytes:
        """Return the network as bytes."""
        arrays = {name: np.array(array, order="C") for name, array in self.arrays.items()}
        metadata = {"format": FORMAT, "allocation": json.dumps(self.allocation.to_dict())}
        return bytes(save(arrays, metadata))

    @classmethod
    def from_bytes(cls, data: bytes) -> "TrainedNetwork":
        """Return the network that `to_bytes` made these bytes of.

        Raises:
            ModelError: If the bytes are damaged, or of another version.
        """
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = header["__metadata__"]
            if (version := metadata["format"]) != FORMAT:
                raise ModelError(f"a trained network has format {version}, expected {FORMAT}")
            allocation = BitAllocation.from_dict(json.loads(metadata["allocation"]))
        except (SafetensorError, KeyError, TypeError, ValueError, SpaceError) as error:
            raise ModelError(f"a trained network is damaged: {error}") from error
        return cls(allocation, arrays)

    def deploy(
        self,
        model: "nn.Module",
        layers: Sequence[Layer],
        config: QuantizerConfig,
        batches: "Iterable[Tensor | tuple[Tensor, Tensor]]",
    ) -> "QuantizedModel":
        """Return the network as it is run, at its widths.

        Batch norms are folded, and the codes of the weights are those of training: a folded batch
        norm scales a channel, and the channel's scale with it.

        Args:
            model: The network that was trained, with whatever weights; it gets those of training.
            layers: What `profile` found in it.
            config: How the study quantizes; only its scheme of activations matters at these widths.
            batches: Calibration images, which show how data flows.

        Raises:
            ModelError: If the network is another one.
        """
        import torch

        from .quantized import QuantizedModel
        from .quantized_layers import QuantizedMatMul

        self._require(layers)
        state = {
            name.removeprefix(STATE): torch.from_numpy(np.array(array))
            for name, array in self.arrays.items()
            if name.startswith(STATE)
        }
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"a trained network does not fit this architecture: {error}"
            ) from error
        quantized = QuantizedModel(model, layers, config.for_training)
        quantized.calibrate(batches)
        for layer, weight_bits, input_bits in zip(
            quantized.quantized_layers.values(),
            self.allocation.weights,
            self.allocation.activations,
            strict=True,
        ):
            name = layer.layer.name
            assert isinstance(weight_bits, int) and isinstance(input_bits, int)
            layer.left.override(input_bits, self._ends(INPUT + name))
            if isinstance(layer, QuantizedMatMul):
                layer.right.override(weight_bits, self._ends(RIGHT + name))
            elif weight_bits <= _REPAIRABLE_BITS:
                layer.repairs[weight_bits] = _codes(
                    state[f"{name}.weight"],
                    torch.from_numpy(np.array(self.arrays[SCALE + name])),
                    weight_bits,
                    layer.inner,
                )
        quantized.set_allocation(self.allocation)
        return quantized

    def _ends(self, name: str) -> tuple[float, float]:
        low, high = self.arrays[name].tolist()
        return low, high

    def _require(self, layers: Sequence[Layer]) -> None:
        """Raise unless the network has these layers, and numbers for each."""
        if self.allocation.layers != tuple(layer.name for layer in layers):
            raise ModelError("a trained network is of other layers than the network it is for")
        if not self.allocation.is_layerwise:
            raise ModelError("a trained network has one width for each operand of a layer")
        for layer in layers:
            second = RIGHT if layer.kind == "matmul" else SCALE
            for name in (INPUT + layer.name, second + layer.name):
                if name not in self.arrays:
                    raise ModelError(f"a trained network has no {name!r}")
            scale = self.arrays.get(SCALE + layer.name)
            if scale is not None and not (
                scale.shape == (layer.out_channels,) and np.isfinite(scale).all() and scale.all()
            ):
                raise ModelError(
                    f"{SCALE + layer.name!r} of a trained network must be a finite number other "
                    f"than 0 for each of {layer.out_channels} output channels"
                )


def _codes(weight: "Tensor", scale: "Tensor", bits: int, folded: "nn.Module") -> "RepairedWeight":
    """Return the codes a layer was trained with, and the scales they have once it is folded.

    Args:
        weight: Of the float network, before its batch norm was folded.
        scale: By output channel; negative where the grid is turned.
        bits: Width.
        folded: The layer with its batch norm folded.
    """
    import torch

    from .quantized_layers import RepairedWeight

    after = folded.get_parameter("weight").detach().to(weight).flatten(1).double()
    before = weight.flatten(1).double()
    norm = before.square().sum(1)
    factor = torch.where(norm > 0, (before * after).sum(1) / norm.clamp_min(1e-300), 1.0)
    column = (-1, *[1] * (weight.dim() - 1))
    half = 2.0 ** (bits - 1)
    turned = (scale < 0).view(column)
    bottom = torch.where(turned, 1 - half, -half)
    top = torch.where(turned, half, half - 1)
    codes = torch.mul(weight, 1 / scale.abs().view(column)).round_()
    codes = torch.minimum(torch.maximum(codes, bottom), top) * factor.sign().to(codes).view(column)
    if bits == _REPAIRABLE_BITS:  # as in training: what was turned round would not fit in a byte
        codes.clamp_(1 - half, half - 1)
    bias = folded._parameters["bias"]
    return RepairedWeight(
        codes.to(torch.int8),
        (scale.double().abs() * factor.abs()).to(scale.dtype).clamp_min(_TINY),
        None if bias is None else bias.detach(),
    )
