"""A network that chooses its widths while it runs, as a value: kept, sent and measured.

The format is safetensors. Nothing that is read can run code.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...spaces import (
    BitAllocation,
    DynamicAllocation,
    Layer,
    ModelError,
    Operand,
    SpaceError,
)
from ..config import QuantizerConfig
from ..trained import TrainedNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..quantized import QuantizedModel
    from .gates import SelectorGate

FORMAT = "dynamic-1"
"""Version of the format; another one is not read."""

SELECTOR = "selector/"
"""Beginning of the names of what selectors compute with."""

BACKBONE = "backbone/"
"""Beginning of the names of the numbers of a trained network."""

Per = Literal["sample", "batch"]
"""Whose statistics decide: those of each sample, or those of all that share its batch."""


@dataclass(frozen=True, eq=False)
class DynamicNetwork:
    """What there is to choose from, and what chooses.

    Attributes:
        dynamic: What there is to choose from.
        selectors: Numbers of the selector of each layer and operand, by their names.
        per: Whose statistics selectors look at.
        backbone: The network that was trained with the selectors; None for the study's own.
    """

    dynamic: DynamicAllocation
    selectors: Mapping[tuple[str, Operand], Mapping[str, npt.NDArray[Any]]] = field(
        default_factory=dict
    )
    per: Per = "sample"
    backbone: TrainedNetwork | None = None

    def __post_init__(self) -> None:
        expected = {(s.layer, s.operand) for s in self.dynamic.selectors}
        if set(self.selectors) != expected:
            odd = sorted(expected.symmetric_difference(self.selectors))
            raise ModelError(f"a dynamic network has selectors for other operands: {odd[0]}")
        if self.backbone is not None and self.dynamic.kind == "cascade":
            raise ModelError("a cascade runs on the study's own network, and has no backbone")
        if self.backbone is not None and self.backbone.allocation != self.dynamic.widest:
            raise ModelError("the backbone of a dynamic network must be at its widest member")

    @property
    def allocation(self) -> BitAllocation:
        """The widths it has at most: its last member."""
        return self.dynamic.widest

    @cached_property
    def digest(self) -> str:
        """A hexadecimal name of the content."""
        digest = hashlib.sha256(f"{FORMAT} {self.dynamic.key} {self.per}".encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def to_bytes(self) -> bytes:
        """Return the network as bytes."""
        arrays = {name: np.array(array, order="C") for name, array in self._arrays().items()}
        metadata = {
            "format": FORMAT,
            "dynamic": json.dumps(self.dynamic.to_dict()),
            "per": self.per,
            "backbone": "" if self.backbone is None else self.backbone.digest,
        }
        return bytes(save(arrays or {"nothing": np.zeros(1, np.uint8)}, metadata))

    @classmethod
    def from_bytes(cls, data: bytes) -> "DynamicNetwork":
        """Return the network that `to_bytes` made these bytes of.

        Raises:
            ModelError: If the bytes are damaged, or of another version.
        """
        try:
            arrays, metadata = load(data), _metadata(data)
            if (version := metadata["format"]) != FORMAT:
                raise ModelError(f"a dynamic network has format {version}, expected {FORMAT}")
            dynamic = DynamicAllocation.from_dict(json.loads(metadata["dynamic"]))
            selectors = {
                (s.layer, s.operand): _under(_prefix(s.layer, s.operand), arrays)
                for s in dynamic.selectors
            }
            backbone = None
            if metadata["backbone"]:
                backbone = TrainedNetwork(dynamic.widest, _under(BACKBONE, arrays))
                if backbone.digest != metadata["backbone"]:
                    raise ModelError("a dynamic network is damaged: its backbone is another one")
            per: Per = "batch" if metadata["per"] == "batch" else "sample"
            return cls(dynamic, selectors, per, backbone)
        except (SafetensorError, KeyError, TypeError, ValueError, SpaceError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"a dynamic network is damaged: {error}") from error

    def deploy(
        self,
        model: "nn.Module",
        layers: Sequence[Layer],
        config: QuantizerConfig,
        batches: "Iterable[Tensor | tuple[Tensor, Tensor]]",
    ) -> "QuantizedModel":
        """Return the backbone as it is run, with its ranges for all widths there are to choose.

        Args:
            model: The network that was trained, with whatever weights; it gets those of training.
            layers: What `profile` found in it.
            config: How the study quantizes; only its scheme of activations matters at these widths.
            batches: Calibration images, which show how data flows.

        Raises:
            ModelError: If there is no backbone, or the network is another one.
        """
        if self.backbone is None:
            raise ModelError("this dynamic network runs on the study's own, and has no backbone")
        quantized = self.backbone.deploy(model, layers, config, batches)
        for selector in self.dynamic.selectors:
            layer = quantized.quantized_layers[selector.layer]
            quantizer = layer.left
            if selector.operand == "weight":
                quantizer = layer.right
            widths = self.dynamic.choices[selector.layer, selector.operand]
            ends = quantizer.range(widths[-1])  # they were trained on one range
            for width in widths:
                quantizer.override(width, ends)
        return quantized

    def gates(self, layers: Mapping[str, Layer]) -> "dict[tuple[str, Operand], SelectorGate]":
        """Return what chooses.

        Args:
            layers: The network's layers by name.

        Raises:
            ModelError: If a selector does not fit its layer, or is damaged.
        """
        from .gates import SelectorGate
        from .layout import layout_for
        from .selectors import IntegerSelector

        found = {}
        for selector in self.dynamic.selectors:
            operand = selector.layer, selector.operand
            found[operand] = SelectorGate(
                self.dynamic.choices[operand],
                layout_for(layers[selector.layer], selector.channels),
                selector.positions,
                IntegerSelector.from_arrays(self.selectors[operand]),
                self.per,
            )
        return found

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays = {
            _prefix(*operand) + name: array
            for operand, parts in self.selectors.items()
            for name, array in parts.items()
        }
        if self.backbone is not None:
            arrays |= {BACKBONE + name: array for name, array in self.backbone.arrays.items()}
        return arrays


def load_network(data: bytes) -> TrainedNetwork | DynamicNetwork:
    """Return the network, of whichever kind, that these bytes were made of.

    Raises:
        ModelError: If the bytes are damaged, or of another version.
    """
    try:
        is_dynamic = _metadata(data)["format"] == FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"a trained network is damaged: {error}") from error
    return DynamicNetwork.from_bytes(data) if is_dynamic else TrainedNetwork.from_bytes(data)


def _metadata(data: bytes) -> dict[str, str]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] = header["__metadata__"]
    return found


def _prefix(layer: str, operand: Operand) -> str:
    return f"{SELECTOR}{layer}/{operand}/"


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
