"""How long it takes a precision controller to switch, and to decide."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bitfront.energy import EnergyModel, load_table
from bitfront.models.engine import Engine
from bitfront.models.runtime.audit import AuditLog
from bitfront.models.runtime.controller import PrecisionController
from bitfront.models.runtime.levels import prepare_levels
from bitfront.spaces import BitAllocation

from .cases import load
from .record import Entry

SWITCHES = 100
NEXT = 3
"""Answers after a first one, whose median it is compared with."""


def switch(name: str) -> dict[str, Entry]:
    """Measure switching between 4, 6 and 8 bits, one input at a time, with an audit log on disk.

    Args:
        name: Case.
    """
    loaded = load(name)
    engine = Engine(loaded.quantized(), loaded.batch[:4])
    energy = EnergyModel(load_table("horowitz-45nm"), loaded.layers)
    allocations = [BitAllocation.uniform(loaded.layers, width) for width in (4, 6, 8)]
    levels = prepare_levels(engine, energy, allocations, loaded.batch)
    x = loaded.batch[:1]
    with TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.jsonl")
        controller = PrecisionController(levels, classes=loaded.architecture.classes, audit=log)
        controller.calibrate(loaded.calibration.batches(loaded.case.batch))
        switches, firsts, deciding = [], [], []
        for number in range(SWITCHES):
            started = time.perf_counter()
            if number % 3 == 0:
                controller.roll_back("benchmark")
            else:
                controller.step_down(controller.floor - 1, "benchmark")
            switches.append(1000 * (time.perf_counter() - started))
            level = levels[controller.floor]
            first = _timed(lambda level=level: level.run(x))
            following = sorted(_timed(lambda level=level: level.run(x)) for _ in range(NEXT))
            firsts.append(first - following[NEXT // 2])
            answers = sorted(_timed(lambda: controller(x)) for _ in range(NEXT))
            deciding.append(answers[NEXT // 2] - following[NEXT // 2])
        controller.close()
    found = {"switch_ms": switches, "first_answer_ms": firsts, "deciding_ms": deciding}
    return {
        f"runtime.{name}.{key}": Entry.median_of(ms, "ms", note=f"the longest {max(ms):.2g} ms")
        for key, ms in found.items()
    }


def _timed(call: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)
