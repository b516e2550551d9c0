"""BatchNorm folded into the layer before it, where watching one input proves that nothing changes.

A batch norm in evaluation mode is one multiplication and one addition per channel; a convolution
or linear layer can take them over (Jacob et al., arXiv:1712.05877, section 3.2) if its output goes
nowhere but into the batch norm. Module hooks cannot prove that (``x + conv(x)`` calls no module
for the sum), so every operation that reads the output is watched.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ..spaces import ModelError
from .surgery import replace_modules

Producer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d

_TOLERANCE = 1e-3
_METADATA = (Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride)


def fold_batch_norms(model: nn.Module, example: Tensor) -> dict[str, str]:
    """Fold each batch norm that alone reads the output of one convolution or linear layer.

    Folded are ``BatchNorm1d`` and ``BatchNorm2d``, and timm's ``BatchNormAct2d``, of which the
    activation stays. Weights change in place; the batch norm is exchanged for what is left of it.

    Args:
        model: The network in evaluation mode; changed in place.
        example: An input that shows how data flows.

    Returns:
        Names of the layers by those of the batch norms that were folded into them, in the order of
        their calls.

    Raises:
        ModelError: If the folded network gives another output for the example. This happens when
            operations on a layer's output are hidden, as in compiled script functions.
    """
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad():
        flow = _Flow(model)
        before = flow.run(example)
        pairs = flow.foldable()
        for norm, producer in pairs.items():
            fold_into(producer, norm)
        replace_modules(model, {norm: _rest(norm) for norm in pairs})
        if pairs:
            _check_unchanged(before, model(example))
    return {names[norm]: names[producer] for norm, producer in pairs.items()}


def has_batch_norms(model: nn.Module) -> bool:
    """Whether a network has batch norms of a kind that can be folded, wherever they stand."""
    return any(_is_norm_kind(module) for module in model.modules())


def _check_unchanged(before: Any, after: Any) -> None:
    for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
        if not isinstance(old, Tensor) or not torch.isfinite(old).all():
            continue
        change, allowed = (old - new).abs().max(), _TOLERANCE * old.abs().max()
        if not change <= allowed:
            raise ModelError(
                f"folding batch norms changed the output of the network by {float(change):.2g}: "
                "an operation between a layer and its batch norm cannot be seen; "
                "write it in plain Python"
            )


class _Flow(TorchFunctionMode):
    """Watches who reads the output of each convolution and linear layer in one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._calls: Counter[nn.Module] = Counter()
        self._inputs: dict[Norm, Tensor] = {}
        self._outputs: dict[Producer, Tensor] = {}  # alive, so that storage addresses stay unique
        self._readers: dict[int, set[nn.Module | None]] = {}  # by storage of an output
        self._weights: dict[int, Tensor] = {}  # that an output was computed with, by its storage
        self._inside: nn.Module | None = None

    def run(self, example: Tensor) -> Any:
        """Watch the forward pass of an example and return its result."""
        handles = [handle for module in self._model.modules() for handle in self._watch(module)]
        try:
            with self:
                result = self._model(example)
        finally:
            for handle in handles:
                handle.remove()
        self._note_reads(result)
        return result

    def foldable(self) -> dict[Norm, Producer]:
        """Return the producer of each batch norm that can be folded."""
        by_storage = {_storage(out): module for module, out in self._outputs.items()}
        return {
            norm: producer
            for norm, x in self._inputs.items()
            if (producer := by_storage.get(_storage(x))) and self._is_only_reader(norm, x, producer)
        }

    def _is_only_reader(self, norm: Norm, x: Tensor, producer: Producer) -> bool:
        out, weight = self._outputs[producer], producer.weight
        owners = sum(module._parameters.get("weight") is weight for module in self._model.modules())
        return (
            self._readers[_storage(out)] == {norm}
            and self._calls[producer] == self._calls[norm] == owners == 1
            and self._weights.get(_storage(out)) is weight
            and (out.data_ptr(), out.shape, out.stride()) == (x.data_ptr(), x.shape, x.stride())
        )

    def _watch(self, module: nn.Module) -> list[RemovableHandle]:
        if _is_norm(module):
            return [
                module.register_forward_pre_hook(self._enter),
                module.register_forward_hook(self._leave),
            ]
        if isinstance(module, Producer):
            return [module.register_forward_hook(self._produced)]
        return []

    def _enter(self, norm: Norm, args: tuple[Tensor, ...]) -> None:
        self._calls[norm] += 1
        self._inputs[norm] = args[0]
        self._inside = norm

    def _leave(self, norm: Norm, args: tuple[Tensor, ...], out: Tensor) -> None:
        self._inside = None

    def _produced(self, module: Producer, args: tuple[Tensor, ...], out: Tensor) -> None:
        self._calls[module] += 1
        self._outputs[module] = out
        self._readers[_storage(out)] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        is_metadata = func in _METADATA or (
            getattr(func, "__name__", "") == "__get__" and not isinstance(out, Tensor)
        )
        if not is_metadata:
            self._note_reads((args, kwargs))
        if func in (nn.functional.conv2d, nn.functional.linear):
            self._weights[_storage(out)] = args[1]
        return out

    def _note_reads(self, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and _storage(value) in self._readers:
                self._readers[_storage(value)].add(self._inside)


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _is_norm(module: nn.Module) -> bool:
    has_statistics = module._buffers.get("running_var") is not None
    return _is_norm_kind(module) and not module.training and has_statistics


def _is_norm_kind(module: nn.Module) -> bool:
    # By exact class: a subclass may do more than normalise. timm's is recognised by name, so that
    # a network without it never imports timm.
    kind = type(module)
    return kind in (nn.BatchNorm1d, nn.BatchNorm2d) or (
        (kind.__module__, kind.__name__) == ("timm.layers.norm_act", "BatchNormAct2d")
    )


def fold_into(producer: Producer, norm: Norm) -> None:
    """Scale the weights and shift the bias of a layer as a batch norm would its output.

    Args:
        producer: Changed in place; computed in float64.
        norm: With statistics.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.running_mean.double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if producer.bias is not None:
        shift = shift + producer.bias.double() * factor
    weight = producer.weight
    column = factor.view(-1, *[1] * (weight.dim() - 1))
    weight.copy_(weight.double() * column)
    producer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def _rest(norm: nn.Module) -> nn.Module:
    """Return what a batch norm does besides normalising."""
    parts = [
        part
        for name in ("drop", "act")
        if not isinstance(part := getattr(norm, name, nn.Identity()), nn.Identity)
    ]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)
