"""One point of a bit-width space."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import SpaceError, nearest
from .layer import Layer

ChannelBits = npt.NDArray[np.uint8]
Bits = int | ChannelBits
"""The width of one operand of one layer: one for all channels, or one per channel."""

KNOWN_WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
"""Every width an operand may take; 32 is float."""


class BitAllocation:
    """The widths of the weights and of the input activations of every layer.

    Immutable and hashable. Per-channel widths are ``uint8`` arrays (weights by output channel,
    activations by input channel); an array with equal entries is stored as the one integer it
    means, so that equal allocations are equal however they were written.

    Args:
        layers: Layer names, in network order.
        weights: One width, or one array of widths by output channel, per layer.
        activations: One width, or one array of widths by input channel, per layer.

    Raises:
        SpaceError: If lengths differ, a name appears twice, or a width is not one of 2 to 8, 16
            and 32.

    Examples:
        >>> a = BitAllocation(["conv", "fc"], [8, 4], [8, [4, 8, 8]])
        >>> a.weights, a.is_layerwise
        ((8, 4), False)
        >>> BitAllocation.from_json(a.to_json()) == a
        True
    """

    __slots__ = ("__dict__", "activations", "layers", "weights")

    layers: tuple[str, ...]
    weights: tuple[Bits, ...]
    activations: tuple[Bits, ...]

    def __init__(
        self,
        layers: Sequence[str],
        weights: Sequence[int | Sequence[int] | ChannelBits],
        activations: Sequence[int | Sequence[int] | ChannelBits],
    ) -> None:
        names = tuple(layers)
        if len(set(names)) != len(names):
            raise SpaceError(f"layer names must be unique, got {list(names)}")
        if not len(names) == len(weights) == len(activations):
            raise SpaceError(
                f"an allocation needs one weight and one activation width per layer: "
                f"{len(names)} layers, {len(weights)} weight widths, "
                f"{len(activations)} activation widths"
            )
        set_ = object.__setattr__
        set_(self, "layers", names)
        set_(self, "weights", tuple(map(_canonical, names, weights)))
        set_(self, "activations", tuple(map(_canonical, names, activations)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"BitAllocation is immutable; cannot set {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return BitAllocation, (self.layers, self.weights, self.activations)

    @cached_property
    def key(self) -> str:
        """A 32-digit hexadecimal name of the content, the same in every process and version."""
        digest = hashlib.sha256(b"bitfront-allocation-1")
        for name, weight, activation in zip(
            self.layers, self.weights, self.activations, strict=True
        ):
            encoded = name.encode()
            digest.update(len(encoded).to_bytes(4, "little") + encoded)
            for bits in (weight, activation):
                raw = bytes([bits]) if isinstance(bits, int) else bits.tobytes()
                digest.update(len(raw).to_bytes(4, "little") + raw)
        return digest.hexdigest()[:32]

    @property
    def is_layerwise(self) -> bool:
        """Whether every operand has one width for all its channels."""
        return all(isinstance(bits, int) for bits in (*self.weights, *self.activations))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitAllocation) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        def show(values: tuple[Bits, ...]) -> str:
            return " ".join(
                str(bits) if isinstance(bits, int) else f"~{bits.mean():.1f}" for bits in values
            )

        return f"BitAllocation(w=[{show(self.weights)}], a=[{show(self.activations)}])"

    def replace(self, layer: str, *, weight: Any = None, activation: Any = None) -> "BitAllocation":
        """Return a copy with other widths in one layer.

        Args:
            layer: The layer's name.
            weight: New width(s) of the weights, or None to keep them.
            activation: New width(s) of the input activation, or None to keep them.

        Raises:
            SpaceError: If there is no such layer.
        """
        if layer not in self.layers:
            raise SpaceError(f"no layer {layer!r}; {nearest(layer, self.layers)}")
        index = self.layers.index(layer)
        weights, activations = list(self.weights), list(self.activations)
        if weight is not None:
            weights[index] = weight
        if activation is not None:
            activations[index] = activation
        return BitAllocation(self.layers, weights, activations)

    @classmethod
    def uniform(
        cls, layers: Sequence[Layer], weight: int, activation: int | None = None
    ) -> "BitAllocation":
        """Return the allocation with one width everywhere, whatever a space would allow.

        Args:
            layers: The network's layers.
            weight: Width of all weights.
            activation: Width of all activations; as the weights' if None.
        """
        names = [layer.name for layer in layers]
        width = weight if activation is None else activation
        return cls(names, [weight] * len(names), [width] * len(names))

    def to_dict(self) -> dict[str, dict[str, int | list[int]]]:
        """Return ``{layer: {"weight": bits, "activation": bits}}``, ready for JSON."""

        def plain(bits: Bits) -> int | list[int]:
            return bits if isinstance(bits, int) else bits.tolist()

        return {
            name: {"weight": plain(w), "activation": plain(a)}
            for name, w, a in zip(self.layers, self.weights, self.activations, strict=True)
        }

    def to_json(self) -> str:
        """Return the allocation as compact JSON; `from_json` is its inverse."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_dict(cls, value: Mapping[str, Mapping[str, Any]]) -> "BitAllocation":
        """Build an allocation from what `to_dict` returns.

        Raises:
            SpaceError: If an entry is not ``{"weight": ..., "activation": ...}``.
        """
        for name, entry in value.items():
            if not isinstance(entry, Mapping) or set(entry) != {"weight", "activation"}:
                raise SpaceError(
                    f"layer {name!r} of an allocation must be "
                    f'{{"weight": bits, "activation": bits}}, got {entry!r}'
                )
        return cls(
            list(value),
            [entry["weight"] for entry in value.values()],
            [entry["activation"] for entry in value.values()],
        )

    @classmethod
    def from_json(cls, text: str) -> "BitAllocation":
        """Build an allocation from what `to_json` returns.

        Raises:
            SpaceError: If the text is not such JSON.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpaceError(f"an allocation must be JSON: {error}") from None
        if not isinstance(value, dict):
            raise SpaceError(f"an allocation must be a JSON object, got {type(value).__name__}")
        return cls.from_dict(value)


def _canonical(layer: str, bits: int | Sequence[int] | ChannelBits) -> Bits:
    """Check widths and return the one integer, or a read-only array of unequal ones."""
    values = np.asarray(bits)
    if values.ndim > 1 or values.size == 0 or values.dtype.kind not in "iu":
        raise SpaceError(f"layer {layer!r}: widths must be integers, got {bits!r}")
    distinct = np.unique(values)
    if unknown := [int(b) for b in distinct if b not in KNOWN_WIDTHS]:
        raise SpaceError(
            f"layer {layer!r}: width {unknown[0]} is not one of {', '.join(map(str, KNOWN_WIDTHS))}"
        )
    if len(distinct) == 1:
        return int(distinct[0])
    array = values.astype(np.uint8)
    array.flags.writeable = False
    return array
