import sys
from dataclasses import dataclass

import pytest

from bitfront.searchers import (
    Percentile,
    RandomSearch,
    Searcher,
    Uniform,
    build,
    describe,
    get,
    register,
    registry,
    strategy_names,
)
from bitfront.spaces import StudyError


@dataclass(frozen=True, kw_only=True)
class Sampler(Searcher):
    """Does nothing."""

    def search(self, problem):
        pass


ADDRESS = f"{__name__}:Sampler"


@pytest.fixture
def sampler(monkeypatch):
    monkeypatch.setitem(registry._registered, "sampler", Sampler)
    return "sampler"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package that declares these strategies where importlib.metadata finds it."""

    def declare(**strategies):
        folder = tmp_path / "theirs-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        lines = [f"{name} = {value}\n" for name, value in strategies.items()]
        (folder / "entry_points.txt").write_text("".join(["[bitfront.searchers]\n", *lines]))
        monkeypatch.syspath_prepend(tmp_path)

    return declare


def test_our_own_strategies_are_known():
    assert {"percentile", "random", "uniform"} <= set(strategy_names())
    assert [get(n) for n in ("percentile", "random", "uniform")] == [
        Percentile,
        RandomSearch,
        Uniform,
    ]


def test_a_name_is_given_once():
    with pytest.raises(StudyError, match=r"'random' is taken by bitfront\.searchers\."):
        register("random")(Sampler)
    assert get("random") is RandomSearch


def test_defining_the_same_class_again_replaces_it(monkeypatch):
    # As when a notebook cell that defines a strategy is run twice.
    monkeypatch.setattr(registry, "_registered", {})
    first = register("again")(type("Again", (Sampler,), {}))
    second = register("again")(type("Again", (Sampler,), {}))
    assert first is not second
    assert get("again") is second


def test_unknown_strategy_names_the_nearest():
    with pytest.raises(StudyError, match="unknown strategy 'percentil'; did you mean 'percentile'"):
        build("percentil")


# Classes of others


def test_a_class_by_its_address():
    assert get(ADDRESS) is Sampler


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("bitfront.searchers:Missing", "AttributeError"),
        ("bitfront.searchers:Budget", "not a subclass of"),
        ("bitfront.searchers:build", "not a subclass of"),
        (":X", "cannot be imported"),
        ("bitfront:", "cannot be imported"),
    ],
)
def test_an_address_that_leads_nowhere(address, message):
    with pytest.raises(StudyError, match=message):
        get(address)


def test_a_module_that_raises_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "explosive.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StudyError, match="cannot be imported: ZeroDivisionError"):
        get("explosive:Mine")
    assert "explosive" not in sys.modules


def test_an_entry_point_is_listed_and_found(install):
    install(theirs=ADDRESS)
    assert "theirs" in strategy_names()
    assert get("theirs") is Sampler


def test_a_broken_package_does_not_disturb_the_others(install):
    install(broken="no_such_module:X")
    assert "broken" in strategy_names()
    assert get("random") is RandomSearch
    with pytest.raises(StudyError, match="no_such_module"):
        get("broken")


def test_two_classes_that_claim_a_name_are_refused(install):
    install(random=ADDRESS)
    with pytest.raises(StudyError, match=r"claimed by .* and .*; name the one you mean"):
        get("random")


def test_a_class_registered_and_declared_under_one_name_is_one(install, sampler):
    install(sampler=ADDRESS)
    assert get("sampler") is Sampler


@pytest.mark.parametrize("name", ["percentile", "random", "uniform"])
def test_describe_says_what_a_strategy_can_do(name):
    described, cls = describe(name), get(name)
    assert described.summary == cls.summary
    assert set(described.granularities) == cls.granularities
    assert (described.needs_model, described.deterministic) == (cls.needs_model, cls.deterministic)
