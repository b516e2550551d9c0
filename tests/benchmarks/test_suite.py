"""Which benchmarks a prefix of keys selects."""

import pytest

from bitfront.benchmarks import pricing
from bitfront.benchmarks.record import Entry
from bitfront.benchmarks.suite import BENCHMARKS, QUICK, Benchmark, selected


def test_everything_is_selected_by_nothing():
    assert tuple(selected("")) == BENCHMARKS


@pytest.mark.parametrize(
    ("prefix", "titles"),
    [
        ("pool.overhead", ["pool.overhead"]),
        ("engine.resnet20", ["engine.speed resnet20", "engine.agreement resnet20"]),
        ("engine.resnet20.agree", ["engine.agreement resnet20"]),
        ("engine.vgg", []),
    ],
)
def test_a_prefix_selects_those_that_have_such_keys(prefix, titles):
    assert [one.title for one in selected(prefix)] == titles


def test_the_quick_one_is_a_resnet20():
    assert [one.title for one in QUICK] == ["engine.speed resnet20"]


def test_a_benchmark_gives_only_keys_that_it_names(monkeypatch):
    entries = {"pricing.one_us": Entry.of(1.0, "us")}
    monkeypatch.setattr(pricing, "measure", lambda: entries)
    assert Benchmark.of("pricing.measure", "pricing", "one_us").run() == entries
    with pytest.raises(AssertionError, match=r"pricing\.one_us"):
        Benchmark.of("pricing.measure", "pricing", "another").run()
