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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from .surgery import replace_modules

Producer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d


def fold_batch_norms(model: nn.Module, example: Tensor) -> list[str]:
    """Fold each batch norm that alone reads the output of one convolution or linear layer.

    Folded are ``BatchNorm1d`` and ``BatchNorm2d``, and timm's ``BatchNormAct2d``, of which the
    activation stays. Weights change in place; the batch norm is exchanged for what is left of it.

    Args:
        model: The network in evaluation mode; changed in place.
        example: An input that shows how data flows; its values do not matter.

    Returns:
        Names of the batch norms that were folded, in the order of their calls.
    """
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad():
        pairs = _Flow(model).foldable(example)
        for norm, producer in pairs.items():
            _fold(producer, norm)
    replace_modules(model, {norm: _rest(norm) for norm in pairs})
    return [names[norm] for norm in pairs]


class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches who reads the output of each convolution and linear layer in one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._calls: Counter[nn.Module] = Counter()
        self._inputs: dict[Norm, Tensor] = {}
        self._outputs: dict[Producer, Tensor] = {}  # alive, so that storage addresses stay unique
        self._readers: dict[int, set[nn.Module | None]] = {}  # by storage of an output
        self._weights: dict[int, int] = {}  # weight used, by storage of a convolution's output
        self._inside: nn.Module | None = None

    def foldable(self, example: Tensor) -> dict[Norm, Producer]:
        """Run the example; return the producer of each batch norm that can be folded."""
        handles = [handle for module in self._model.modules() for handle in self._watch(module)]
        try:
            with self:
                result = self._model(example)
        finally:
            for handle in handles:
                handle.remove()
        self._note_reads(result)
        by_storage = {_storage(out): module for module, out in self._outputs.items()}
        return {
            norm: producer
            for norm, x in self._inputs.items()
            if (producer := by_storage.get(_storage(x))) and self._only_reader(norm, x, producer)
        }

    def _only_reader(self, norm: Norm, x: Tensor, producer: Producer) -> bool:
        out = self._outputs[producer]
        owners = sum(m._parameters.get("weight") is producer.weight for m in self._model.modules())
        is_plain = type(producer).forward is nn.Linear.forward or (
            self._weights.get(_storage(out)) == producer.weight.data_ptr()
        )
        return (
            self._readers[_storage(out)] == {norm}
            and self._calls[producer] == self._calls[norm] == owners == 1
            and is_plain
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

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._note_reads((args, kwargs))
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self._weights[_storage(out)] = args[1].data_ptr()
        return out

    def _note_reads(self, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and _storage(value) in self._readers:
                self._readers[_storage(value)].add(self._inside)


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _is_norm(module: nn.Module) -> bool:
    # By exact class: a subclass may do more than normalise. timm's is recognised by name, so that
    # a network without it never imports timm.
    kind = type(module)
    known = kind in (nn.BatchNorm1d, nn.BatchNorm2d) or (
        (kind.__module__, kind.__name__) == ("timm.layers.norm_act", "BatchNormAct2d")
    )
    return known and not module.training and module._buffers.get("running_var") is not None


def _fold(producer: Producer, norm: Norm) -> None:
    """Scale the weights and shift the bias, computed in float64."""
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
