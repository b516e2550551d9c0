"""The record of what was measured: flat JSON with the machine and the versions it holds for."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("latest.json")
PACKAGES = ("bitfront", "torch", "timm", "numpy", "ray")
CPU_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(frozen=True)
class Entry:
    """One measured number.

    Attributes:
        amount: The median, or the one value.
        spread: Its lower and upper quartile; empty if there is one value.
        n: Of how many.
        unit: ``x`` for a ratio.
        note: What a reader should know.
        disturbed: How many of the ``n`` were measured while the machine was busy.
        by_cpu: The ratio of CPU times where it is another.
        date: When it was measured.
    """

    amount: float
    spread: tuple[float, ...]
    n: int
    unit: str
    note: str = ""
    disturbed: int = 0
    by_cpu: float | None = None
    date: str = dataclasses.field(default_factory=lambda: datetime.date.today().isoformat())

    @classmethod
    def median_of(cls, values: Sequence[float], unit: str, **more: Any) -> "Entry":
        """Return the median of values with their quartiles."""
        return cls(statistics.median(values), quartiles(values), len(values), unit, **more)

    @classmethod
    def of(cls, value: float, unit: str, n: int = 1, **more: Any) -> "Entry":
        """Return one value that was counted or computed over ``n`` cases."""
        return cls(value, (), n, unit, **more)

    def to_json(self) -> dict[str, Any]:
        """Return the entry with its amount as ``ratio`` or ``value``, without what is empty."""
        fields = dataclasses.asdict(self)
        amount = fields.pop("amount")
        fields["spread"] = list(self.spread)
        for name, empty in (("note", ""), ("disturbed", 0), ("by_cpu", None)):
            if fields[name] == empty:
                del fields[name]
        return {"ratio" if self.unit == "x" else "value": amount, **fields}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Entry":
        """Return the entry `to_json` wrote."""
        rest = dict(fields)
        amount = rest.pop("ratio" if rest["unit"] == "x" else "value")
        return cls(amount, tuple(rest.pop("spread")), **rest)


def quartiles(values: Sequence[float]) -> tuple[float, ...]:
    """Return the lower and the upper quartile; of a single value nothing."""
    if len(values) < 2:
        return ()
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


@dataclass(frozen=True)
class Record:
    """Entries by key, and what they hold for.

    Attributes:
        machine: Processor and system.
        versions: Of Python and the packages that matter.
        entries: By flat key, such as ``engine.resnet20.vs_fp32``.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    entries: Mapping[str, Entry]

    @classmethod
    def here(cls, entries: Mapping[str, Entry]) -> "Record":
        """Return a record of this machine."""
        return cls(_machine(), _versions(), dict(entries))

    @classmethod
    def read(cls, path: Path = RECORD) -> "Record":
        """Read a record."""
        facts = json.loads(path.read_text())
        machine, versions = facts.pop("machine"), facts.pop("versions")
        return cls(
            machine, versions, {key: Entry.from_json(fields) for key, fields in facts.items()}
        )

    def write(self, path: Path = RECORD) -> None:
        """Write the record, in the order of keys."""
        facts = {"machine": dict(self.machine), "versions": dict(self.versions)} | {
            key: self.entries[key].to_json() for key in sorted(self.entries)
        }
        path.write_text(json.dumps(facts, indent=1) + "\n")

    def updated(self, newer: "Record") -> "Record":
        """Return this record with the entries of a newer one of the same machine and versions.

        Raises:
            ValueError: If machine or versions are others: numbers of both would stand side by side.
        """
        ours, theirs = (self.machine, self.versions), (newer.machine, newer.versions)
        if ours != theirs:
            raise ValueError(
                "the record is of another machine or other versions; measure everything anew"
            )
        return Record(self.machine, self.versions, {**self.entries, **newer.entries})


def _machine() -> dict[str, Any]:
    cpu, flags = _processor()
    return {
        "cpu": cpu,
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> tuple[str, set[str]]:
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    model = f"{facts.get('model name', '?')} (family {facts.get('cpu family', '?')}, "
    return model + f"model {facts.get('model', '?')})", set(facts.get("flags", "").split())


def _versions() -> dict[str, str]:
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **found}
