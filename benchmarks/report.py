"""What the numbers are held against, and how they are shown."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from rich.console import Console
from rich.table import Table

from .record import Entry, Record

T = TypeVar("T")

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN = "<!-- {}, written by `make bench` -->"
END = "<!-- end of {} -->"

MEANINGS = {
    "engine.*.vs_fp32": "engine at 8 bits against the faster float32 forward pass",
    "engine.*.mixed_vs_fp32": "the same at random mixed widths 2 to 8",
    "engine.*.vs_fake_quantize": "against torch's fake quantization",
    "engine.*.vs_reference": "against the reference path",
    "engine.*.mixed_images_per_s": "engine at random mixed widths 2 to 8",
    "engine.*.fp32_images_per_s": "the faster float32 forward pass",
    "engine.*.fake_quantize_images_per_s": "torch's fake quantization",
    "engine.*.reference_images_per_s": "reference path",
    "engine.*.images_per_s": "engine at 8 bits",
    "engine.*.layer_error": "largest relative error of a layer on the same input codes",
    "engine.*.agreement": "same top-1 as the reference, 50 random allocations",
    "engine.*.accuracy_difference": "mean accuracy less the reference's, 50 random allocations",
    "engine.*.prepare_ms": "plan and weights of a random allocation, and one image",
    "sensitivity.*.vs_naive": "time of all layers x widths 2 to 8, share of one at a time",
    "sensitivity.*.fisher_vs_float": "time of `fisher` scores, in float passes over the images",
    "sensitivity.*.fisher_s": "`fisher` scores of all layers",
    "sensitivity.*.taylor_s": "`taylor` scores of all layers",
    "sensitivity.*.mse_s": "`mse` scores of all layers",
    "sensitivity.*.kl_s": "`kl` scores of all layers",
    "pool.two_workers_vs_one": "evaluations a second, 2 workers against 1",
    "pool.one_worker_per_s": "evaluations a second, 1 worker",
    "pool.two_workers_per_s": "evaluations a second, 2 workers",
    "pool.evaluation_ms": "one evaluation where it is measured, 1 worker",
    "pool.overhead_ms": "request to answer through Ray and ledger, less the measurement",
    "pool.answers_per_s": "answers through Ray and ledger, hardly any work behind them",
    "pool.coordinator_ms": "CPU time of the coordinator per answer",
    "runtime.*.switch_ms": "controller: another level in force and written down",
    "runtime.*.first_answer_ms": "first answer at a level after a switch, less the next one's time",
    "runtime.*.deciding_ms": "answer of the controller to one input, less the level's own time",
    "pricing.allocations_per_s": "allocations of 50 layers priced, vectorised",
    "pricing.one_us": "one allocation of 50 layers priced by itself",
    "memory.*.worker_mb": "peak memory of a worker",
    "memory.*.fp32_mb": "peak memory of the float32 network's own evaluation",
    "memory.*.vs_fp32": "the former over the latter",
    "memory.*.of_allowance": "peak memory of a worker over 1.5x float32 + cache bound",
    "evaluation.*.allocator_gain": "reference path with freed memory kept",
    "training.*.vs_fp32": "step of training at 8 bits against the faster float32 step",
    "training.*.vs_fake_quantize": "the same against torch's fake quantization",
    "training.*.images_per_s": "training at 8 bits",
    "training.*.eqat_vs_plain": "time of a step of EQAT over that of a plain training step",
    "training.*.eqat_images_per_s": "training with EQAT",
    "quantizer.channels_last.vs_torch": "quantize-dequantize against torch's, channels_last",
    "quantizer.contiguous.vs_torch": "the same, contiguous",
    "quantizer.gradients.vs_torch": "forward and backward, channels_last",
}
"""What every key says, the first pattern that fits."""


@dataclass(frozen=True)
class Bar:
    """What a number must reach."""

    side: Literal[">=", "<="]
    limit: float

    def is_met(self, amount: float) -> bool:
        """Whether a number reaches it."""
        return amount >= self.limit if self.side == ">=" else amount <= self.limit


BARS = {
    "engine.resnet20.vs_fp32": Bar(">=", 3.0),
    "engine.resnet18.vs_fp32": Bar(">=", 3.0),
    "engine.resnet20.vs_fake_quantize": Bar(">=", 6.0),
    "engine.resnet18.vs_fake_quantize": Bar(">=", 6.0),
    "engine.efficientnet_lite0.vs_fp32": Bar(">=", 1.5),
    "engine.deit_tiny.vs_fp32": Bar(">=", 1.5),
    "engine.mobilenetv3_large.vs_fp32": Bar(">=", 1.2),
    "engine.*.layer_error": Bar("<=", 1e-5),
    "engine.*.agreement": Bar(">=", 99.9),
    "engine.*.accuracy_difference": Bar("<=", 0.05),
    "sensitivity.resnet20.vs_naive": Bar("<=", 0.6),
    "sensitivity.resnet20.fisher_s": Bar("<=", 2.7),
    "pool.two_workers_vs_one": Bar(">=", 1.8),
    "memory.*.of_allowance": Bar("<=", 1.0),
    "training.*.eqat_vs_plain": Bar("<=", 2.5),
    "runtime.*.switch_ms": Bar("<=", 2.0),
    "runtime.*.first_answer_ms": Bar("<=", 2.0),
    "pricing.allocations_per_s": Bar(">=", 500_000),
}
"""What must hold, the first pattern that fits."""


@dataclass(frozen=True)
class Row:
    """One line of the table, as text."""

    key: str
    meaning: str
    measured: str
    spread: str
    n: str
    bar: str
    verdict: str


def bar_of(key: str) -> Bar | None:
    """Return what a key is held against, if anything."""
    return _first(BARS, key)


def missed(entries: Mapping[str, Entry]) -> list[str]:
    """Return the keys whose bars are missed."""
    bars = {key: bar_of(key) for key in entries}
    return [key for key, bar in bars.items() if bar and not bar.is_met(abs(entries[key].amount))]


def rows(record: Record) -> Iterator[Row]:
    """Yield the lines of the table in the order of keys."""
    not_met = set(missed(record.entries))
    for key in sorted(record.entries):
        entry, bar = record.entries[key], bar_of(key)
        meaning = _first(MEANINGS, key) or ""
        remarks = [entry.note] if entry.note else []
        if entry.disturbed:
            remarks.append(f"{entry.disturbed} of {entry.n} rounds disturbed")
        if entry.by_cpu is not None:
            remarks.append(f"{number(entry.by_cpu)} by CPU time")
        yield Row(
            key,
            "; ".join([meaning, *remarks]),
            _with_unit(entry.amount, entry.unit),
            " to ".join(number(end) for end in entry.spread),
            f"{entry.n:,}",
            f"{bar.side} {_with_unit(bar.limit, entry.unit)}" if bar else "",
            "" if bar is None else "missed" if key in not_met else "met",
        )


def number(value: float) -> str:
    """Return a number with three significant digits, and all digits before the point.

    Examples:
        >>> number(3.4159), number(0.05), number(1234567.8), number(7e-07)
        ('3.42', '0.05', '1,234,568', '7e-07')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(record: Record) -> str:
    """Return the machine and the table for the documentation."""
    machine, versions = record.machine, record.versions
    dates = sorted({entry.date for entry in record.entries.values()})
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), "
        f"{machine['system']}; " + ", ".join(f"{name} {v}" for name, v in versions.items()) + "; "
        f"measured {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}.",
        "",
        "| key | what | measured | quartiles | n | bar | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(
            f"| `{row.key}` | {row.meaning} | {row.measured} | {row.spread} | {row.n} | {row.bar} "
            f"| {row.verdict} |"
            for row in rows(record)
        ),
    ]
    return "\n".join(lines)


def with_part(page: str, name: str, text: str) -> str:
    """Return a page with the text between the marks of a part exchanged.

    Raises:
        ValueError: If the page lacks the marks.
    """
    begin, end = BEGIN.format(name), END.format(name)
    before, begins, rest = page.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise ValueError(f"the page has no part {name!r}: it begins with {begin}, ends with {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def show(record: Record, console: Console) -> None:
    """Print the table."""
    table = Table("key", "what", box=None, header_style="bold")
    for name in ("measured", "quartiles", "n", "bar"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    colours = {"met": "green", "missed": "red", "": ""}
    for row in rows(record):
        cells = (row.key, row.meaning, row.measured, row.spread, row.n, row.bar)
        table.add_row(*cells, f"[{colours[row.verdict]}]{row.verdict}" if row.verdict else "")
    console.print(table)


def _with_unit(amount: float, unit: str) -> str:
    if unit == "%":  # what matters of it is what is missing from 100
        return f"{amount:.2f} %"
    return f"{number(amount)}x" if unit == "x" else f"{number(amount)} {unit}".rstrip()


def _first(patterns: Mapping[str, T], key: str) -> T | None:
    return next((value for pattern, value in patterns.items() if fnmatchcase(key, pattern)), None)
