"""The model on paper: its limits, worked by hand."""

import pytest

from bitfront.benchmarks.record import Entry, Record
from bitfront.benchmarks.scaling_model import Pool, is_possible, markdown, pool_of

ENTRIES = {
    "pool.one_worker_per_s": Entry.of(8.0, "/s"),
    "pool.evaluation_ms": Entry.of(115.0, "ms"),
    "pool.coordinator_ms": Entry.of(2.0, "ms"),
    "pool.two_workers_vs_one": Entry.of(1.9, "x"),
    "engine.resnet20.mixed_images_per_s": Entry.of(5000.0, "/s"),
    "engine.efficientnet_lite0.mixed_images_per_s": Entry.of(100.0, "/s"),
}


def test_workers_add_up_until_the_coordinator_is_busy():
    pool = Pool(evaluation_s=0.09, handling_s=0.01, coordinator_s=0.001)
    assert pool.per_second(1) == pytest.approx(10)
    assert pool.per_second(64) == pytest.approx(640)
    assert pool.saturation == 100
    assert pool.per_second(1000) == pytest.approx(1000)


def test_on_one_machine_the_coordinator_takes_its_share_of_the_cores():
    pool = Pool(evaluation_s=0.09, handling_s=0.01, coordinator_s=0.025)
    assert pool.per_second(2, cores=2) == pytest.approx(16)
    assert pool.per_second(1, cores=2) == pytest.approx(10)


def test_constants_follow_from_the_record():
    pool = pool_of(Record.here(ENTRIES), evaluation_s=0.2)
    assert pool == Pool(0.2, pytest.approx(0.01), 0.002)


def test_the_table_counts_evaluations_per_hour():
    record = Record.here(ENTRIES)
    assert is_possible(record)
    lines = markdown(record).splitlines()
    assert "| 1 | 17,143 | 1,196 |" in lines  # 3600 / 0.21 and 3600 / 3.01
    assert "| 2,048 | 1,800,000 | 1,800,000 |" in lines  # 3600 / 0.002
    assert "| saturated from | 105 | 1,505 |" in lines
    assert lines[-1].endswith("measured: 1.90 times.")


def test_without_all_constants_there_is_no_model():
    assert not is_possible(Record.here({"pool.coordinator_ms": Entry.of(2.0, "ms")}))
