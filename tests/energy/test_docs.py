"""The page about tables says what is true: its example runs and its list is complete."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_the_example_of_rows_prices_its_network(page, tmp_path):
    (example,) = re.findall(r"^    quantity: latency\n(?:    .*\n)+", page, re.MULTILINE)
    head = "id: r\ntitle: R\nsources: {board: {ref: ours}}\nevidence: {level: read}\n"
    path = tmp_path / "rows.yaml"
    path.write_text(head + textwrap.dedent(example))
    rows = load_table(path).rows
    assert [row.layer for row in rows.layers] == ["conv1", "layer1.0.conv1"]
    assert rows.unpriced == ("fc",)


def test_the_example_in_python_runs(page, small_network):
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    bits = np.full((2, len(small_network)), 4)
    names = {
        "layers": small_network,
        "allocation": BitAllocation.uniform(small_network, 4),
        "weight_bits": bits,
        "activation_bits": bits,
        "weight_tensor": torch.tensor(bits).double(),
        "activation_tensor": torch.tensor(bits).double(),
    }
    exec(example, names)
    assert names["report"].total == pytest.approx(names["model"].price_many(bits, bits)[0])


def test_every_shipped_table_and_variant_is_listed_with_its_evidence(page):
    for name in table_names():
        (row,) = re.findall(rf"^\| `{re.escape(name)}` \|.*$", page, re.MULTILINE)
        assert load_table(name).evidence.level in row


def test_every_option_is_listed(page):
    for option in EnergyOptions.model_fields:
        assert re.search(rf"^\| `{option}` \|", page, re.MULTILINE)
