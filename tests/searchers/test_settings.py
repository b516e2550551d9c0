import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from bitfront.searchers import Searcher, build
from bitfront.searchers.settings import configure, settings_of
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


def test_settings_are_taken_as_yaml_has_them():
    built = configure(Sampler, {"rate": 1, "widths": [2, 4], "clip": 0.5, "names": ["a"]})
    assert built == Sampler(rate=1.0, widths=(2, 4), clip=0.5, names=["a"])
    assert isinstance(built.rate, float)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0, "step": 3}, "Sampler has no setting 'step'; did you mean 'steps'"),
        ({}, "Sampler needs the setting 'rate'"),
        ({"rate": "high"}, "Sampler: setting 'rate' must be float, got 'high'"),
        ({"rate": True}, "must be float, got True"),
        ({"rate": 1.0, "steps": 2.5}, "'steps' must be int, got 2.5"),
        ({"rate": 1.0, "steps": "3"}, "'steps' must be int, got '3'"),
        ({"rate": 1.0, "steps": None}, "'steps' must be int, got None"),
        ({"rate": 1.0, "mode": "medium"}, r"must be Literal\['fast', 'slow'\], got 'medium'"),
        ({"rate": 1.0, "widths": 8}, r"must be tuple\[int, \.\.\.\], got 8"),
        ({"rate": 1.0, "widths": [8, "x"]}, r"got \[8, 'x'\] \(at \[1\]: 'x'\)"),
        ({"rate": 1.0, "clip": object()}, "must be plain values"),
        ({"rate": -1.0}, "Sampler: rate must not be negative, got -1.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        configure(Sampler, settings)


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


def test_settings_have_types_and_defaults():
    settings = {s.name: s for s in settings_of(Sampler)}
    assert (settings["rate"].type, settings["rate"].required) == ("float", True)
    assert (settings["clip"].type, settings["clip"].default) == ("float | None", None)
    assert (settings["widths"].type, settings["widths"].default) == ("tuple[int, ...]", (4, 8))
    assert settings["names"].default == []
