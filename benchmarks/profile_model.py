"""Where the engine's time goes: ``python -m bitfront.benchmarks.profile_model resnet20 [--steps]``.

Prints the time of every kind of step of a forward pass at 8 bits (or ``--mixed`` widths), the rate
of its multiply-accumulates, and what the same layers take in float32, batch norm folded.
"""

import argparse
import contextlib
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bitfront.models.allocator import keep_freed_memory
from bitfront.models.engine import Engine, steps
from bitfront.models.quantized import QuantizedModel
from bitfront.models.quantized_layers import QuantizedLayer

from .cases import CASES, Loaded
from .timing import ROUNDS, WARM_UP_ROUNDS

Times = dict[Any, list[float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bitfront.benchmarks.profile_model")
    parser.add_argument("model", choices=CASES)
    parser.add_argument("--mixed", action="store_true", help="random widths 2 to 8")
    parser.add_argument("--steps", action="store_true", help="each step, not each kind of them")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    loaded = Loaded(CASES[given.model])
    model, x = loaded.quantized(), loaded.batch
    allocation = next(loaded.allocations(1)) if given.mixed else loaded.uniform
    engine = Engine(model, x[:4])
    run = engine.prepare([allocation])
    by_step: Times = defaultdict(list)
    in_float: Times = defaultdict(list)
    passes: list[float] = []
    in_float_passes: list[float] = []
    with torch.inference_mode():
        for round_ in range(WARM_UP_ROUNDS + ROUNDS):
            if round_ == WARM_UP_ROUNDS:
                for times in (by_step, in_float, passes, in_float_passes):
                    times.clear()
            with _timed_steps(by_step):
                started = time.perf_counter()
                run(x)
                passes.append(time.perf_counter() - started)
            with _timed_layers(model, in_float):
                model.set_allocation(None)
                started = time.perf_counter()
                model(x)
                in_float_passes.append(time.perf_counter() - started)
    table = _table(
        by_step,
        in_float,
        len(x),
        total_s=statistics.median(passes),
        float_s=statistics.median(in_float_passes),
        each=given.steps,
    )
    Console(width=140).print(table)


@contextlib.contextmanager
def _timed_steps(times: Times) -> Iterator[None]:
    """Take the time of every step that runs inside, by the step."""

    def timed(kind: type[steps.Step]) -> Any:
        plain = kind.run

        def run(step: steps.Step, operands: Sequence[Any]) -> Any:
            started = time.perf_counter()
            out = plain(step, operands)
            times[step].append(time.perf_counter() - started)
            return out

        return mock.patch.object(kind, "run", run)

    with contextlib.ExitStack() as stack:
        for kind in steps.Step.__subclasses__():
            stack.enter_context(timed(kind))
        yield


@contextlib.contextmanager
def _timed_layers(model: QuantizedModel, times: Times) -> Iterator[None]:
    """Take the time of every layer that runs inside, by its name."""
    started: dict[nn.Module, float] = {}

    def begin(layer: nn.Module, _: Any) -> None:
        started[layer] = time.perf_counter()

    def end(layer: QuantizedLayer, _: Any, __: Tensor) -> None:
        times[layer.layer.name].append(time.perf_counter() - started[layer])

    layers = model.quantized_layers.values()
    handles = [layer.register_forward_pre_hook(begin) for layer in layers]
    handles += [layer.register_forward_hook(end) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _table(
    by_step: Times, in_float: Times, images: int, *, total_s: float, float_s: float, each: bool
) -> Table:
    rows: dict[str, list[float]] = {}
    for number, (step, times) in enumerate(by_step.items()):
        layer = getattr(step, "layer", None) if not isinstance(step, steps.Quantize) else None
        name = layer.layer.name if layer is not None else ""
        row = rows.setdefault(f"{number:3d} {kind_of(step)} {name}" if each else kind_of(step), [])
        row[:] = row or [0, 0.0, 0.0, 0.0]
        row[0] += 1
        row[1] += 1000 * statistics.median(times)
        if layer is not None:
            row[2] += images * layer.layer.macs / 1e9
            row[3] += 1000 * statistics.median(in_float[name])
    found_ms = sum(row[1] for row in rows.values())
    rows["between steps, and copies"] = [0, 1000 * total_s - found_ms, 0.0, 0.0]
    table = Table("step", *("count", "ms", "share", "GMAC/s", "float32 ms", "gain"), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    order = rows.items() if each else sorted(rows.items(), key=lambda item: -item[1][1])
    for kind, (count, ms, gmacs, float_ms) in order:
        rate = [f"{gmacs / ms * 1000:,.0f}", f"{float_ms:.2f}", f"{float_ms / ms:.1f}x"]
        share = f"{ms / (1000 * total_s):.1%}"
        table.add_row(kind, f"{count:.0f}", f"{ms:.2f}", share, *(rate if gmacs else []))
    gain = f"{float_s / total_s:.1f}x"
    table.add_row("all", "", f"{1000 * total_s:.2f}", "100%", "", f"{1000 * float_s:.2f}", gain)
    return table


def kind_of(step: steps.Step) -> str:
    """Return what a step is, in words."""
    if isinstance(step, steps.Quantize):
        return "quantize"
    if isinstance(step, steps.Reference):
        return f"reference {_shape(step.layer)}"
    if isinstance(step, steps.Kernel):
        added = " + sum" if len(step.reads) == 2 else ""
        activation = "" if step.clip == "none" else f" + {step.clip}"
        to = "codes" if step.writes[1] is not None else "float"
        return f"integer {_shape(step.layer)}{added}{activation} -> {to}"
    if isinstance(step, steps.Product):
        return "integer product of activations -> float"
    if isinstance(step, steps.Activate):
        return f"float {step.activation}"
    assert isinstance(step, steps.Float)
    name = re.sub(r"_\d+$", "", step.operation.name.rpartition(".")[2])
    return f"float {step.operation.kind} {name}"


def _shape(layer: QuantizedLayer) -> str:
    facts = layer.layer
    if facts.kind != "conv":
        return facts.kind
    size = "x".join(map(str, facts.kernel))
    return f"{'depthwise ' if facts.groups > 1 else ''}{size}/{facts.stride[0]}"


if __name__ == "__main__":
    main()
