"""What can be measured, each in a process of its own: some settings cannot be taken back."""

import multiprocessing
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module

from rich.console import Console

from .record import Entry

NETWORKS = ("resnet20", "resnet18", "mobilenetv3_large", "efficientnet_lite0", "deit_tiny")


@dataclass(frozen=True)
class Benchmark:
    """A function that measures.

    Attributes:
        module: Where it is.
        function: Its name.
        case: The network it is called with; none if empty.
        keys: Of the record, that it may give.
    """

    module: str
    function: str
    case: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, place: str, keys: str, names: str, case: str = "") -> "Benchmark":
        """Return ``module.function`` as a benchmark with keys ``<keys>.[<case>.]<name>``."""
        module, _, function = place.partition(".")
        prefix = f"{keys}.{case}." if case else f"{keys}."
        return cls(module, function, case, tuple(prefix + name for name in names.split()))

    @property
    def title(self) -> str:
        """What it is called while it runs."""
        return f"{self.module}.{self.function} {self.case}".rstrip()

    def run(self) -> dict[str, Entry]:
        """Measure, in this process."""
        function = getattr(import_module(f".{self.module}", __package__), self.function)
        found: dict[str, Entry] = function(*[self.case] if self.case else [])
        if strange := set(found) - set(self.keys):
            raise AssertionError(f"{self.title} gives keys it does not name: {sorted(strange)}")
        return found


SPEED = (
    "vs_fp32 mixed_vs_fp32 vs_fake_quantize vs_reference images_per_s mixed_images_per_s "
    "fp32_images_per_s fake_quantize_images_per_s reference_images_per_s"
)
SAMENESS = "agreement accuracy_difference layer_error prepare_ms"
SCORES = "mse_s kl_s fisher_s taylor_s fisher_vs_float"
POOL = "two_workers_vs_one evaluation_ms one_worker_per_s two_workers_per_s"

BENCHMARKS = (
    Benchmark.of("pricing.measure", "pricing", "allocations_per_s one_us"),
    Benchmark.of(
        "quantizers.measure",
        "quantizer",
        "contiguous.vs_torch channels_last.vs_torch gradients.vs_torch",
    ),
    *(
        Benchmark.of("allocator.gain", "evaluation", "allocator_gain", name)
        for name in ("resnet20", "efficientnet_lite0")
    ),
    Benchmark.of("training.step", "training", "vs_fp32 vs_fake_quantize images_per_s", "resnet20"),
    *(
        Benchmark.of("training_step.measure", "training", "eqat_vs_plain eqat_images_per_s", name)
        for name in ("resnet20", "cnn5")
    ),
    *(Benchmark.of("engine.speed", "engine", SPEED, name) for name in NETWORKS),
    *(Benchmark.of("engine.agreement", "engine", SAMENESS, name) for name in NETWORKS),
    Benchmark.of("sensitivity.sweep", "sensitivity", "vs_naive", "resnet20"),
    Benchmark.of("sensitivity.scores", "sensitivity", SCORES, "resnet20"),
    *(
        Benchmark.of("memory.measure", "memory", "fp32_mb worker_mb vs_fp32 of_allowance", name)
        for name in NETWORKS
    ),
    Benchmark.of("runtime.switch", "runtime", "switch_ms first_answer_ms deciding_ms", "resnet20"),
    Benchmark.of("pool.overhead", "pool", "overhead_ms"),
    Benchmark.of("pool.saturation", "pool", "answers_per_s coordinator_ms"),
    Benchmark.of("pool.two_workers", "pool", POOL),
)

QUICK = tuple(one for one in BENCHMARKS if one.title == "engine.speed resnet20")


def selected(prefix: str) -> list[Benchmark]:
    """Return the benchmarks that have keys with a prefix."""
    return [one for one in BENCHMARKS if any(key.startswith(prefix) for key in one.keys)]


def run(
    benchmarks: Sequence[Benchmark], prefix: str, console: Console
) -> tuple[dict[str, Entry], list[str]]:
    """Run benchmarks, each in a process of its own.

    Args:
        benchmarks: Which.
        prefix: Of the keys that are wanted.
        console: Told of the progress.

    Returns:
        What was measured by key, and the titles of those that failed.
    """
    found: dict[str, Entry] = {}
    failed = []
    for one in benchmarks:
        console.print(f"[dim]{one.title}", end=" ")
        started = time.perf_counter()
        try:
            entries = _in_new_process(one)
        except Exception:  # the others can still be measured
            console.print()
            console.print(traceback.format_exc(), markup=False)
            failed.append(one.title)
        else:
            console.print(f"[dim]{time.perf_counter() - started:.0f} s")
            found |= {key: entry for key, entry in entries.items() if key.startswith(prefix)}
    return found, failed


def _in_new_process(benchmark: Benchmark) -> dict[str, Entry]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(benchmark.run).result()
