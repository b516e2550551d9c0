import json
import sys
from dataclasses import dataclass, field
from typing import Literal

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
from bitfront.searchers.registry import configure
from bitfront.spaces import StudyError


@dataclass(frozen=True, kw_only=True)
class Sampler(Searcher):
    """A strategy with a setting of every kind; `search` does nothing."""

    summary = "Nothing."
    rate: float
    steps: int = 10
    mode: Literal["fast", "slow"] = "fast"
    clip: float | None = None
    widths: tuple[int, ...] = (4, 8)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")

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


# Other people's


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


# Settings


def test_settings_are_taken_as_yaml_has_them(sampler):
    built = build(sampler, {"rate": 1, "widths": [2, 4], "clip": 0.5, "names": ["a"]})
    assert built == Sampler(rate=1.0, widths=(2, 4), clip=0.5, names=["a"])
    assert isinstance(built.rate, float)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0, "step": 3}, "sampler has no setting 'step'; did you mean 'steps'"),
        ({}, "sampler needs the setting 'rate'"),
        ({"rate": "high"}, "sampler: setting 'rate' must be float, got 'high'"),
        ({"rate": True}, "must be float, got True"),
        ({"rate": 1.0, "steps": 2.5}, "'steps' must be int, got 2.5"),
        ({"rate": 1.0, "steps": "3"}, "'steps' must be int, got '3'"),
        ({"rate": 1.0, "steps": None}, "'steps' must be int, got None"),
        ({"rate": 1.0, "mode": "medium"}, r"must be Literal\['fast', 'slow'\], got 'medium'"),
        ({"rate": 1.0, "widths": 8}, r"must be tuple\[int, \.\.\.\], got 8"),
        ({"rate": 1.0, "widths": [8, "x"]}, r"got \[8, 'x'\] \(at \[1\]: 'x'\)"),
        ({"rate": 1.0, "clip": object()}, "must be plain values"),
        ({"rate": -1.0}, "sampler: rate must not be negative, got -1.0"),
    ],
)
def test_wrong_settings_are_refused(sampler, settings, message):
    with pytest.raises(StudyError, match=message):
        build(sampler, settings)


def test_a_strategy_without_settings_says_it_has_none():
    bare = type("Bare", (Searcher,), {"search": lambda self, problem: None})
    assert configure(bare, {}).settings() == {}
    with pytest.raises(StudyError, match="Bare has no setting 'x'; it has none"):
        configure(bare, {"x": 1})


def test_a_class_without_search_is_refused():
    with pytest.raises(StudyError, match="abstract"):
        configure(type("Half", (Searcher,), {}), {})


def test_settings_survive_json():
    made = build("percentile", {"triples": [[2, 4, 8]], "probe_bits": 3})
    assert build("percentile", json.loads(json.dumps(made.settings()))) == made


def test_describe_shows_settings_with_types_and_defaults(sampler):
    settings = {s.name: s for s in describe(sampler).settings}
    assert (settings["rate"].type, settings["rate"].required) == ("float", True)
    assert (settings["clip"].type, settings["clip"].default) == ("float | None", None)
    assert (settings["widths"].type, settings["widths"].default) == ("tuple[int, ...]", (4, 8))
    assert settings["names"].default == []


@pytest.mark.parametrize("name", ["percentile", "random", "uniform"])
def test_describe_says_what_a_strategy_can_do(name):
    described, cls = describe(name), get(name)
    assert described.summary == cls.summary
    assert set(described.granularities) == cls.granularities
    assert (described.needs_model, described.deterministic) == (cls.needs_model, cls.deterministic)
