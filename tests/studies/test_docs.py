"""The reference of studies and commands says what the code does."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bitfront.energy import EnergyOptions
from bitfront.models import AdaptationConfig, DataConfig, QuantizerConfig, TrainConfig
from bitfront.searchers import Budget
from bitfront.studies import StudySpec
from bitfront.studies.cli import app
from bitfront.studies.sections import (
    EnergySpec,
    ExecutionSpec,
    ModelSpec,
    SpaceSpec,
    TrackingSpec,
)

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS = {
    "Keys": StudySpec,
    "model": ModelSpec,
    "model.train": TrainConfig,
    "data": DataConfig,
    "space": SpaceSpec,
    "quantizer": QuantizerConfig,
    "adaptation": AdaptationConfig,
    "energy": EnergySpec,
    "energy.options": EnergyOptions,
    "budgets": Budget,
    "execution": ExecutionSpec,
    "tracking": TrackingSpec,
}


def documented(section: str) -> dict[str, str]:
    """Return the keys in a section's table and what stands there as their default."""
    text = (DOCS / "studies.md").read_text()
    part = re.split(rf"^##+ {re.escape(section)}$", text, flags=re.MULTILINE)[1]
    table = re.split(r"^##", part, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", table, flags=re.MULTILINE)
    return {key: default.strip(" `") for key, default in rows}


def defaults(kind: type) -> dict[str, object]:
    if issubclass(kind, BaseModel):
        return {
            name: field.get_default(call_default_factory=True)
            for name, field in kind.model_fields.items()
        }
    missing = dataclasses.MISSING
    return {
        field.name: field.default_factory()
        if field.default_factory is not missing
        else field.default
        for field in dataclasses.fields(kind)
    }


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_with_its_default(section):
    found = documented(section)
    expected = defaults(SECTIONS[section])
    assert list(found) == list(expected)
    for key, value in expected.items():
        if key == "budgets":
            value = {"evaluations": value[0].evaluations}
        if value in (PydanticUndefined, dataclasses.MISSING):
            assert found[key] == "", key
        elif found[key]:
            assert json.loads(found[key]) == json.loads(json.dumps(value)), key
        else:  # a section of its own
            assert isinstance(value, BaseModel) or dataclasses.is_dataclass(value), key


def test_the_example_of_the_reference_is_a_valid_study(tmp_path, monkeypatch):
    text = (DOCS / "studies.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert example is not None
    (tmp_path / "cifar10_resnet20.safetensors").touch()
    (tmp_path / "study.yaml").write_text(example.group(1))
    monkeypatch.setenv("BITFRONT_DATA", str(tmp_path))
    spec = StudySpec.load(tmp_path / "study.yaml")
    assert spec.strategies[1].settings == {"triples": [[2, 4, 8]], "probe_bits": 2}


def test_every_command_is_documented():
    text = (DOCS / "cli.md").read_text()
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(names) == 11
    for name in names:
        assert f"| `bitfront {name} " in text
