"""The page about tables says what is true: its example runs and its list is complete."""

import re
from pathlib import Path

import pytest

from bitfront.energy import EnergyModel, EnergyOptions, load_table, table_names
from bitfront.spaces import BitAllocation

PAGE = Path(__file__).resolve().parents[2] / "docs" / "energy-tables.md"


@pytest.fixture
def page():
    return PAGE.read_text("utf-8")


def test_the_example_of_a_table_prices_a_network(page, tmp_path, small_network):
    (example,) = re.findall(r"```yaml\n(id: .*?)```", page, re.DOTALL)
    path = tmp_path / "my-chip.yaml"
    path.write_text(example)
    model = EnergyModel(load_table(path), small_network)
    four, six, eight = (
        model.energy(BitAllocation.uniform(small_network, bits)) for bits in (4, 6, 8)
    )
    assert four < six == eight
    assert load_table(f"{path}:lpddr5").memory["dram"].read < load_table(path).memory["dram"].read


def test_every_shipped_table_and_variant_is_listed_with_its_evidence(page):
    for name in table_names():
        (row,) = re.findall(rf"^\| `{re.escape(name)}` \|.*$", page, re.MULTILINE)
        assert load_table(name).evidence.level in row


def test_every_option_is_listed(page):
    for option in EnergyOptions.model_fields:
        assert re.search(rf"^\| `{option}` \|", page, re.MULTILINE)
