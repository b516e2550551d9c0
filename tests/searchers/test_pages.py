"""Every strategy has a page, and the page is true."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from bitfront.searchers import build, describe, registry
from bitfront.searchers.training import TrainingSearcher

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "strategies"
# The part of the package that is documented here; a test may have registered others.
OURS = sorted(n for n, c in registry._registered.items() if c.__module__.startswith("bitfront."))


COMMON = [f.name for f in dataclasses.fields(TrainingSearcher)]
"""What is said once for all strategies that train."""


def page(name):
    return (PAGES / f"{name}.md").read_text()


def settings(text):
    return re.findall(r"^\| `(\w+)` \|", text.split("## Settings")[1], re.MULTILINE)


@pytest.mark.parametrize("name", OURS)
def test_the_page_names_every_setting_and_no_other(name):
    expected = [setting.name for setting in describe(name).settings]
    if issubclass(registry._registered[name], TrainingSearcher):
        assert "(../training.md#settings)" in page(name)
        expected = [setting for setting in expected if setting not in COMMON]
    assert settings(page(name)) == expected


def test_the_page_on_training_names_every_common_setting_and_no_other():
    assert settings((DOCS / "training.md").read_text()) == COMMON


@pytest.mark.parametrize("name", OURS)
def test_what_the_page_says_to_run_can_be_built(name):
    (study,) = re.findall(r"```yaml\n(.*?)```", page(name), re.DOTALL)
    for settings in yaml.safe_load(study)["strategies"]:
        keys = {key: settings.pop(key, None) for key in ("name", "label", "budgets")}
        assert build(keys["name"], settings), keys["label"]
    assert "bitfront run" in page(name)


def test_there_is_no_page_without_a_strategy():
    assert sorted(path.stem for path in PAGES.glob("*.md")) == OURS
