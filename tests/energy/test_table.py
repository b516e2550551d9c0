import copy
import json
import re
import subprocess
import sys

import pytest
import yaml

from bitfront.energy import (
    EnergyModel,
    EnergyOptions,
    load_table,
    options_from,
    table_names,
    variant_names,
)
from bitfront.spaces import EnergyTableError

MINIMAL = {
    "id": "mine",
    "title": "Mine",
    "unit": "pJ",
    "sources": {"us": {"ref": "our board"}},
    "evidence": {"level": "read"},
    "multiply": {"product": 0.003, "source": "us"},
    "memory": {"dram": {"kind": "dram", "read": 20, "write": 20, "source": "us"}},
}


@pytest.fixture
def write(tmp_path):
    def write(changes, *, remove=()):
        table = copy.deepcopy(MINIMAL) | changes
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in table.items() if k not in remove}))
        return path

    return write


def test_every_shipped_table_states_source_evidence_and_limits(any_table):
    assert any_table.parts
    assert any_table.evidence.note
    assert any_table.limits
    assert all(source.ref and source.locator for source in any_table.sources.values())
    assert {part.source for part in any_table.parts.values()} <= set(any_table.sources)


def test_only_tables_with_weak_evidence_have_weak_parts(any_table):
    weak = any_table.evidence.level in ("recalled", "single")
    assert bool(any_table.weak_parts) == weak == any_table.id.startswith("pann")


def test_tables_can_be_listed_without_reading_them():
    names = table_names()
    assert names == sorted(names)
    assert {"horowitz-45nm", "ptq-psu25", "bitfusion", "hawqv3-t4"} <= set(names)
    assert variant_names("gpu-peak") == ["A100", "H100"]


def test_a_variant_changes_what_it_states_and_keeps_the_rest():
    base, high = load_table("horowitz-45nm"), load_table("horowitz-45nm:dram-high")
    assert high.id == "horowitz-45nm:dram-high"
    assert high.memory["dram"].read == 2 * base.memory["dram"].read
    assert high.multiply == base.multiply
    assert set(load_table("zigzag-templates:tpu_like").memory) == {
        "weight_registers",
        "sum_registers",
        "shared_buffer",
        "dram",
    }


def test_a_table_of_ones_own_is_a_path(write, tmp_path, worked_layer):
    path = write({"variants": {"costly": {"multiply": {"product": 0.006}}}})
    assert load_table(path).multiply.product == 0.003
    assert load_table(str(path) + ":costly").multiply.product == 0.006
    as_json = tmp_path / "mine.json"
    as_json.write_text(json.dumps(MINIMAL))
    assert load_table(as_json) == load_table(path)
    assert EnergyModel(load_table(path), [worked_layer]).w8a8 == pytest.approx(
        57802752 * 0.003 * 64 + 224256 * 8 * 20
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("horowitz", "no energy table 'horowitz'; did you mean 'horowitz-45nm'"),
        ("gpu-peak:A10", "table gpu-peak has no variant 'A10'; did you mean 'A100'"),
        ("mpic:fast", "table mpic has no variant 'fast'; it has none"),
        ("nowhere/mine.yaml", "energy table nowhere/mine.yaml cannot be read: No such file"),
    ],
)
def test_an_unknown_table_is_named_with_the_nearest(name, message):
    with pytest.raises(EnergyTableError, match=re.escape(message)):
        load_table(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multipy": 1}, "multipy: unknown key; did you mean 'multiply'"),
        (
            {"multiply": {"produkt": 1, "source": "us"}},
            "multiply.produkt: unknown key; did you mean 'product' or 'root_product'",
        ),
        (
            {"memory": {"dram": {"kind": "dram", "read": 1, "wirte": 1, "source": "us"}}},
            "memory.dram.wirte: unknown key; did you mean 'write'",
        ),
        (
            {"sources": {"us": {"ref": "x", "page": 3}}},
            "sources.us.page: unknown key; known: 'locator', 'ref'",
        ),
        (
            {"multiply": {"product": "dear", "source": "us"}},
            "multiply.product: input should be a valid number, unable to parse string as a number, "
            'got "dear"',
        ),
        (
            {"multiply": {"product": -1, "source": "us"}},
            "multiply.product: input should be greater than or equal to 0, got -1",
        ),
        ({"multiply": {"product": 1}}, "multiply.source is missing"),
        (
            {"memory": {"dram": {"kind": "dram", "read": 1, "write": 1, "source": "them"}}},
            "memory.dram.source is 'them', which sources does not hold",
        ),
        ({"sources": {"us": 3}}, "sources.us: input should be a mapping, got 3"),
        ({"assumptions": 3}, "assumptions: input should be a list, got 3"),
        ({"evidence": {"level": "guessed"}}, "evidence.level: input should be 'read', "),
        (
            {"accumulator_bits": "exactly"},
            "accumulator_bits: input should be a valid integer, unable to parse string as an "
            "integer; or input should be 'exact', got \"exactly\"",
        ),
        (
            {"storage_widths": [2, 64]},
            "storage_widths[1]: input should be less than or equal to 32, got 64",
        ),
        (
            {"float_as_integer": True, "float32": {"multiply": 1, "accumulate": 1, "source": "us"}},
            "float_as_integer and float32 exclude each other",
        ),
        (
            {
                "points": {
                    "weights": [8, 4],
                    "activations": [8],
                    "costs": [[1], [2]],
                    "source": "us",
                }
            },
            "points: widths must rise, got [8, 4]",
        ),
        (
            {"points": {"weights": [4, 8], "activations": [8], "costs": [[1]], "source": "us"}},
            "points: costs must be 2 x 1, weights x activations",
        ),
        (
            {"points": {"weights": [8], "activations": [8], "costs": [[1]], "source": "us"}},
            "multiply and points exclude each other",
        ),
    ],
)
def test_a_wrong_file_says_where_and_what(changes, message, write):
    path = write(changes)
    with pytest.raises(EnergyTableError) as error:
        load_table(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["unit"], "unit is missing"),
        (["multiply", "memory"], "give at least one of multiply, points, rows and memory"),
    ],
)
def test_what_a_table_needs_must_be_there(remove, message, write):
    with pytest.raises(EnergyTableError, match=message):
        load_table(write({}, remove=remove))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id: [", "not valid YAML"),
        ("- 1\n- 2\n", "a table is a mapping, got list"),
        ("id: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_what_is_no_table_is_refused(text, message, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(EnergyTableError, match=message):
        load_table(path)


def test_options_are_checked_like_tables():
    assert options_from({"output_bits": 8}) == EnergyOptions(output_bits=8)
    with pytest.raises(EnergyTableError, match=r"energy options: bufer_bytes: .* 'buffer_bytes'"):
        options_from({"bufer_bytes": 1})
    with pytest.raises(EnergyTableError, match=r"energy.options: reuse: .*'one_pass' or 'tiled'"):
        options_from({"reuse": "some"}, where="energy.options")


def test_importing_is_light():
    heavy = {"torch", "scipy", "pandas", "ray", "mlflow", "matplotlib", "sklearn"}
    code = "import sys, bitfront.energy as e; e.table_names(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
