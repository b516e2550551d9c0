"""What is kept of a trial while it runs, so that one that was killed goes on from there.

The format is safetensors: arrays as they are, everything else as JSON in its metadata. Nothing that
is read can run code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..spaces import BitAllocation, StudyError

CHECKPOINT_VERSION = 3
"""Version of the format; a checkpoint of another one is not read."""

State = Mapping[str, Any]
"""What a strategy saves, by name: arrays of numbers, and plain values as JSON has them (None,
booleans, numbers of any size, text, lists, mappings with text as keys)."""

Asked = tuple[tuple[BitAllocation, float, str], ...]
"""What was asked for, in order, each with its fidelity and the digest of the trained network it was
measured with; empty for the study's own weights."""

_DAMAGE = (SafetensorError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What reading bytes that are damaged may raise."""

_VALUES = "checkpoint"
_STATE = "state."
_ASKED = "asked."


class CheckpointStore(Protocol):
    """Keeps the last checkpoint of one trial."""

    def get(self) -> bytes | None:
        """Return the last checkpoint that was put, by this process or one before it."""
        ...

    def put(self, data: bytes) -> None:
        """Keep a checkpoint in place of the one before; it need not be kept yet on return."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A trial at the moment its strategy saved something.

    Attributes:
        state: What the strategy saved. Lists and tuples come back as lists, numbers of NumPy as
            plain numbers.
        asked: What had been asked for.
        rng: The state of the problem's generator, and how many generators were spawned from it.
        trace: What had been logged, `Trace.to_dict`; None if nothing was.
        findings: What had been found; arrays come back as lists.
        images_forward: Images that had been passed through the network.
        images_backward: Images that had been passed backward.
        wall_s: Seconds the trial had taken.
        finished: Whether its search had come to an end.
    """

    state: State
    asked: Asked
    rng: Mapping[str, Any]
    trace: Mapping[str, Any] | None
    findings: Mapping[str, Any]
    images_forward: int
    images_backward: int
    wall_s: float
    finished: bool = False

    def to_bytes(self) -> bytes:
        """Return the checkpoint as bytes.

        Raises:
            StudyError: If something in it is neither an array of numbers nor a plain value.
        """
        arrays = {k: v for k, v in self.state.items() if isinstance(v, np.ndarray)}
        values = {
            "version": CHECKPOINT_VERSION,
            "state": {
                name: _plain(value, f"saved value {name!r}")
                for name, value in self.state.items()
                if name not in arrays
            },
            "layers": list(self.asked[0][0].layers) if self.asked else [],
            "networks": [network for _, _, network in self.asked],
            "rng": self.rng,
            "trace": self.trace,
            "findings": _plain(self.findings, "what is in the findings", arrays=True),
            "images_forward": self.images_forward,
            "images_backward": self.images_backward,
            "wall_s": self.wall_s,
            "finished": self.finished,
        }
        tensors = {_STATE + name: _contiguous(array) for name, array in arrays.items()}
        tensors |= {_ASKED + name: array for name, array in _packed(self.asked).items()}
        try:
            return bytes(save(tensors, {_VALUES: json.dumps(values)}))
        except SafetensorError as error:
            raise StudyError(f"a saved array is not one of numbers: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> "Checkpoint":
        """Return the checkpoint that `to_bytes` made these bytes of.

        Raises:
            StudyError: If the bytes are damaged, or of another version.
        """
        try:
            tensors = load(data)
            header = data[8 : 8 + int.from_bytes(data[:8], "little")]
            values = json.loads(json.loads(header)["__metadata__"][_VALUES])
            if (version := values["version"]) != CHECKPOINT_VERSION:
                raise StudyError(f"it has version {version}, expected {CHECKPOINT_VERSION}")
            arrays = {
                name.removeprefix(_STATE): np.require(tensor, requirements="W")
                for name, tensor in tensors.items()
                if name.startswith(_STATE)
            }
            return cls(
                {**_mapping(values, "state"), **arrays},
                _unpacked(values["layers"], values["networks"], tensors),
                values["rng"],
                None if values["trace"] is None else _mapping(values, "trace"),
                _mapping(values, "findings"),
                int(values["images_forward"]),
                int(values["images_backward"]),
                float(values["wall_s"]),
                bool(values["finished"]),
            )
        except StudyError:
            raise
        except _DAMAGE as error:
            raise StudyError(f"it is damaged: {type(error).__name__}: {error}") from error


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(value := values[name], Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(value).__name__}")
    return value


def _contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as safetensors reads it, which looks at the memory and not at the strides."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _plain(value: Any, what: str, *, arrays: bool = False) -> Any:
    """Return a value as JSON brings it back.

    Raises:
        StudyError: If JSON has no word for it, or would bring it back as something else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic) or (arrays and isinstance(value, np.ndarray)):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(inner, what, arrays=arrays) for inner in value]
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise StudyError(f"{what} must have text as keys to be saved, got {wrong[0]!r}")
        return {key: _plain(inner, what, arrays=arrays) for key, inner in value.items()}
    raise StudyError(
        f"{what} cannot be saved: expected an array by itself, or plain values, got "
        f"{type(value).__name__}"
    )


def _packed(asked: Asked) -> dict[str, npt.NDArray[Any]]:
    """Return what was asked as arrays.

    An allocation is the widths of all weights and then of all activations, one after the other, and
    how many widths each operand has. Each is there once, however often it was asked for.
    """
    rows: dict[BitAllocation, int] = {}
    index = [rows.setdefault(allocation, len(rows)) for allocation, _, _ in asked]
    counts, widths = zip(*map(_operands, rows), strict=True) if rows else ((), ())
    return {
        "index": np.array(index, dtype=np.int64),
        "fidelity": np.array([fidelity for _, fidelity, _ in asked], dtype=np.float64),
        "counts": np.array(counts, dtype=np.int32).ravel(),
        "widths": np.frombuffer(b"".join(widths), dtype=np.uint8),
    }


def _operands(allocation: BitAllocation) -> tuple[Sequence[int], bytes]:
    """Return how many widths each operand of an allocation has, and all of them."""
    operands = (*allocation.weights, *allocation.activations)
    try:
        return [1] * len(operands), bytes(operands)
    except TypeError:  # there are channels with widths of their own
        raw = [bytes((b,)) if isinstance(b, int) else b.tobytes() for b in operands]
        return [len(widths) for widths in raw], b"".join(raw)


def _unpacked(
    layers: Sequence[str], networks: Sequence[str], tensors: Mapping[str, npt.NDArray[Any]]
) -> Asked:
    packed = {name: tensors[_ASKED + name] for name in ("index", "fidelity", "counts", "widths")}
    ends = np.cumsum(packed["counts"])[:-1]
    operands = np.split(packed["widths"], ends) if len(packed["counts"]) else []
    count = len(layers)
    rows = [
        BitAllocation(layers, operands[i : i + count], operands[i + count : i + 2 * count])
        for i in range(0, len(operands), 2 * count or 1)
    ]
    return tuple(
        (rows[row], float(fidelity), _text(network))
        for row, fidelity, network in zip(
            packed["index"], packed["fidelity"], networks, strict=True
        )
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the name of a network must be text, got {type(value).__name__}")
    return value
