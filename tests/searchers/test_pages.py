"""Every strategy has a page, and the page is true."""

import re
from pathlib import Path

import pytest
import yaml

from bitfront.searchers import build, describe, registry

PAGES = Path(__file__).parents[2] / "docs" / "strategies"
# The part of the package that is documented here; a test may have registered others.
OURS = sorted(n for n, c in registry._registered.items() if c.__module__.startswith("bitfront."))


def page(name):
    return (PAGES / f"{name}.md").read_text()


@pytest.mark.parametrize("name", OURS)
def test_the_page_names_every_setting_and_no_other(name):
    rows = re.findall(r"^\| `(\w+)` \|", page(name).split("## Settings")[1], re.MULTILINE)
    assert rows == [setting.name for setting in describe(name).settings]


@pytest.mark.parametrize("name", OURS)
def test_what_the_page_says_to_run_can_be_built(name):
    (study,) = re.findall(r"```yaml\n(.*?)```", page(name), re.DOTALL)
    for settings in yaml.safe_load(study)["strategies"]:
        label = settings.pop("label", None)
        assert build(settings.pop("name"), settings), label
    assert "bitfront run" in page(name)


def test_there_is_no_page_without_a_strategy():
    assert sorted(path.stem for path in PAGES.glob("*.md")) == OURS
