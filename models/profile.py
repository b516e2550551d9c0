"""The quantizable layers of any network, found by watching one input go through it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..spaces import Layer, LayerKind, ModelError
from .attention import MatMul, expose_matmuls
from .surgery import structural_copy


def profile(model: nn.Module, input_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Return the convolution, linear and attention-product layers in the order of their calls.

    One zero input is traced with hooks on a copy that shares the weights; the model is not
    changed. Quantizable are ``torch.nn.Conv2d`` and ``torch.nn.Linear`` with their subclasses, the
    two products of ``timm.layers.Attention`` (named ``<attention>.qk`` and ``<attention>.av``),
    and `MatMul`. A layer called several times is one layer with the counts of all its calls.
    Everything else stays in float; `float_macs` says how much that is.

    Args:
        model: Any network of one input.
        input_shape: Shape of one input without the batch axis, e.g. ``(3, 224, 224)``.

    Raises:
        ModelError: If the network does not accept the input, has no quantizable layer, or if two
            layers share one weight tensor.
    """
    trace = _Trace()
    traced = expose_matmuls(structural_copy(model)).eval()
    for name, module in traced.named_modules():
        if is_quantizable(module):
            trace.watch(name, module)
    _run(traced, input_shape)
    if not trace.layers:
        raise ModelError(
            f"{type(model).__name__} has no layer that can be quantized: no Conv2d, Linear or "
            f"MatMul module was called"
        )
    return tuple(trace.layers.values())


def float_macs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Return the multiply-accumulates that no quantizable layer covers, by module.

    These are the layers that cannot be quantized and stay in float: transposed and 1-d
    convolutions, ``nn.MultiheadAttention``, recurrent layers, attention of unknown form, products
    written as functions.

    Args:
        model: Any network of one input.
        input_shape: Shape of one input without the batch axis.

    Returns:
        MACs for one input by name of the module that performs them; empty if all is covered.

    Raises:
        ModelError: If the network does not accept the input.
    """
    traced = expose_matmuls(structural_copy(model)).eval()
    # FlopCounterMode misses the fused attention of CPUs; the plain form consists of products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _run(traced, input_shape)
    # It names a module by the class of the root and its path, and counts what is inside it, too.
    # Containers that are never called, such as a ModuleList, have no count of their own.
    prefix = type(traced).__name__
    own = Counter[str]()
    for path, flops in counter.get_flop_counts().items():
        if path.split(".")[0] == prefix:
            own[path] += sum(flops.values()) // 2
    for path, count in list(own.items()):
        if (above := _nearest_above(path, own)) is not None:
            own[above] -= count
    names = {f"{prefix}.{name}".rstrip("."): name for name, _ in traced.named_modules()}
    return {
        names[path]: macs
        for path, macs in own.items()
        if macs and not is_quantizable(traced.get_submodule(names[path]))
    }


def _nearest_above(path: str, known: Mapping[str, int]) -> str | None:
    while "." in path:
        path = path.rpartition(".")[0]
        if path in known:
            return path
    return None


def is_quantizable(module: nn.Module) -> bool:
    """Whether a module is of a kind that can be quantized, with a plain parameter as weight."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return isinstance(module._parameters.get("weight"), nn.Parameter)
    return isinstance(module, MatMul)


def _run(model: nn.Module, input_shape: Sequence[int]) -> None:
    first = next(model.parameters(), torch.empty(0))
    example = torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)
    try:
        with torch.no_grad():
            model(example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise ModelError(
            f"{type(model).__name__} does not accept an input of shape "
            f"{tuple(example.shape)}: {error}"
        ) from error


class _Trace:
    """Collects a Layer at every call of a watched module."""

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}
        self._weights: dict[int, str] = {}
        self._sources: dict[tuple[Any, ...], str] = {}
        self._alive: list[Tensor] = []

    def watch(self, name: str, module: nn.Module) -> None:
        def record(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> None:
            operands = [*args, *kwargs.values()]
            self._check_weight(name, module)
            layer = _layer(name, module, operands, output, self._source(name, operands[0]))
            first = self.layers.get(name)
            self.layers[name] = layer if first is None else _again(first, layer)

        module.register_forward_hook(record, with_kwargs=True)

    def _check_weight(self, name: str, module: nn.Module) -> None:
        if isinstance(module, MatMul):
            return
        owner = self._weights.setdefault(id(module.weight), name)
        if owner != name:
            raise ModelError(
                f"layers {owner!r} and {name!r} share one weight tensor, which cannot have two "
                f"widths; give one of them a copy of it, or use one module in both places"
            )

    def _source(self, name: str, x: Tensor) -> str:
        # Storage addresses are reused once a tensor dies, so every input seen is kept alive. The
        # version tells a tensor from what an in-place operation made of it.
        self._alive.append(x)
        key = (x.data_ptr(), x.shape, x.stride(), x._version)
        return self._sources.setdefault(key, name)


def _layer(name: str, module: nn.Module, operands: list[Any], out: Tensor, source: str) -> Layer:
    x: Tensor = operands[0]
    kind: LayerKind
    if isinstance(module, nn.Conv2d):
        kind, inputs, outputs = "conv", module.in_channels, module.out_channels
        macs = out.numel() * module.weight[0].numel()
    elif isinstance(module, nn.Linear):
        kind, inputs, outputs = "linear", module.in_features, module.out_features
        macs = out.numel() * inputs
    else:
        kind, inputs, outputs = "matmul", x.shape[-1], out.shape[-1]
        macs = out.numel() * inputs
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    is_conv = isinstance(module, nn.Conv2d)
    per_position = out.shape[-1] * out.shape[-2] if kind == "matmul" else outputs
    return Layer(
        name=name,
        kind=kind,
        macs=macs,
        weight_count=0 if weight is None else weight.numel(),
        bias_count=0 if bias is None else bias.numel(),
        input_count=x.numel(),
        output_count=out.numel(),
        in_channels=inputs,
        out_channels=outputs,
        operand_count=operands[1].numel() if kind == "matmul" else 0,
        kernel=_pair(module.kernel_size) if is_conv else (1, 1),
        stride=_pair(module.stride) if is_conv else (1, 1),
        groups=module.groups if isinstance(module, nn.Conv2d) else 1,
        positions=out.numel() // per_position,
        input_size=_pair(x.shape[-2:]) if is_conv else (1, 1),
        source=source,
    )


def _again(first: Layer, call: Layer) -> Layer:
    """Add the counts of a further call; the geometry stays that of the first."""
    return replace(
        first,
        macs=first.macs + call.macs,
        input_count=first.input_count + call.input_count,
        output_count=first.output_count + call.output_count,
        operand_count=first.operand_count + call.operand_count,
        positions=first.positions + call.positions,
        source=first.source if first.source == call.source else first.name,
    )


def _pair(values: Any) -> tuple[int, int]:
    height, width = values
    return int(height), int(width)
