"""What can be measured, each in a process of its own: some settings cannot be taken back."""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module

from rich.console import Console

from .record import Entry

NETWORKS = ("resnet20", "resnet18", "mobilenetv3_large", "efficientnet_lite0", "deit_tiny")

BENCHMARKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "pricing": ("pricing", "measure", ()),
    "quantizer": ("quantizers", "measure", ()),
    "evaluation.resnet20": ("allocator", "gain", ("resnet20",)),
    "evaluation.efficientnet_lite0": ("allocator", "gain", ("efficientnet_lite0",)),
    **{f"engine.{name}/speed": ("engine", "speed", (name,)) for name in NETWORKS},
    **{f"engine.{name}/agreement": ("engine", "agreement", (name,)) for name in NETWORKS},
    "sensitivity.resnet20": ("sensitivity", "sweep", ("resnet20",)),
    **{f"memory.{name}": ("memory", "measure", (name,)) for name in NETWORKS},
    "pool/overhead": ("pool", "overhead", ()),
    "pool/saturation": ("pool", "saturation", ()),
    "pool/two_workers": ("pool", "two_workers", ()),
}
"""Module, function and arguments by name: what a name has before the slash begins its keys."""

QUICK = ("engine.resnet20/speed",)


def selected(prefix: str) -> list[str]:
    """Return the benchmarks that may have keys with a prefix."""
    keys = {name: name.partition("/")[0] for name in BENCHMARKS}
    return [n for n, key in keys.items() if key.startswith(prefix) or prefix.startswith(key)]


def run(names: Sequence[str], prefix: str, console: Console) -> tuple[dict[str, Entry], list[str]]:
    """Run benchmarks, each in a process of its own; return what they found and which failed."""
    found: dict[str, Entry] = {}
    failed = []
    for name in names:
        module, function, arguments = BENCHMARKS[name]
        console.print(f"[dim]{name}")
        try:
            entries = _in_new_process(partial(_call, module, function, arguments))
        except Exception:  # the others can still be measured
            console.print(traceback.format_exc(), markup=False)
            failed.append(name)
        else:
            found |= {key: entry for key, entry in entries.items() if key.startswith(prefix)}
    return found, failed


def _in_new_process(task: Callable[[], dict[str, Entry]]) -> dict[str, Entry]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(task).result()


def _call(module: str, function: str, arguments: tuple[str, ...]) -> dict[str, Entry]:
    found: dict[str, Entry] = getattr(import_module(f".{module}", __package__), function)(
        *arguments
    )
    return found
