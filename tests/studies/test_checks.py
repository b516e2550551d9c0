"""Further tables of a study: which a limit may name, and when that is refused."""

import pytest

from bitfront.spaces import EnergyTableError, InfeasibleError, Layer
from bitfront.studies.checks import price_space
from bitfront.studies.faults import InvalidStudyError
from bitfront.studies.spec import StudySpec

LAYERS = tuple(Layer(name, "linear", 40, 40, 0, 8, 5, 8, 5) for name in ("fc1", "fc2", "fc3"))
STUDY = """\
study: limited
model: {name: cnn5}
data: {name: digits}
space: {weights: [2, 4, 8], activations: [2, 4, 8]}
energy:
  table: horowitz-45nm
  also:
    - bitfusion
    - jouppi-7nm
strategies: [{name: uniform}]
budgets:
  - evaluations: 5
  - evaluations: 5
    limits:
      energy: 0.9
      energy:bitfusion: 0.8
      mean_weight_bits: 7
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text=STUDY):
        (tmp_path / "study.yaml").write_text(text)
        return StudySpec.load("study.yaml")

    return load


def test_limits_may_name_the_further_tables(load):
    space, pricing = price_space(load(), LAYERS)
    assert list(pricing.tables) == ["bitfusion", "jouppi-7nm"]
    w8a8 = space.uniform(8)
    assert pricing.price(w8a8, "energy:bitfusion") == 1.0
    cheap = space.project(space.uniform(2))
    assert pricing.allows(cheap, load().budgets[1].limits)
    assert not pricing.allows(w8a8, load().budgets[1].limits)
    assert pricing.price(cheap, "energy:bitfusion") != pricing.price(cheap)


@pytest.mark.parametrize("table", ["horowitz-45nm", "jouppi-7nm"])
def test_every_table_of_the_study_can_be_limited(load, table):
    spec = load(STUDY.replace("energy:bitfusion: 0.8", f"energy:{table}: 0.8"))
    space, pricing = price_space(spec, LAYERS)
    assert not pricing.allows(space.uniform(8), spec.budgets[1].limits)


def test_a_table_the_study_does_not_name_is_refused_with_its_line(load):
    with pytest.raises(InvalidStudyError) as caught:
        load(STUDY.replace("energy:bitfusion", "energy:bitfuson"))
    assert str(caught.value) == (
        "study.yaml:16: budgets[1].limits.energy:bitfuson: the study has no table 'bitfuson', only "
        "'horowitz-45nm', 'bitfusion', 'jouppi-7nm': name one of these, or add it to energy.also"
    )


def test_a_limit_under_a_table_that_nothing_meets_names_the_smallest_cost(load):
    spec = load(STUDY.replace("energy:bitfusion: 0.8", "energy:bitfusion: 0.001"))
    with pytest.raises(
        InvalidStudyError,
        match=r"^study.yaml:16: budgets\[1\].limits.energy:bitfusion: no allocation has "
        r"energy:bitfusion <= 0.001 .*the smallest achievable is 0\.\d+",
    ) as caught:
        price_space(spec, LAYERS)
    assert isinstance(caught.value.__cause__, InfeasibleError)


def test_a_limited_table_must_price_all_of_the_space(load):
    wide = STUDY.replace("weights: [2, 4, 8], activations", "weights: [2, 32, 8], activations")
    with pytest.raises(
        InvalidStudyError, match=r"^study.yaml:8: energy.also\[0\]: .*bitfusion cannot price"
    ) as caught:
        price_space(load(wide), LAYERS)
    assert isinstance(caught.value.__cause__, EnergyTableError)


def test_a_table_that_no_limit_needs_need_not_price_the_space(load):
    wide = STUDY.replace("weights: [2, 4, 8], activations", "weights: [2, 32, 8], activations")
    _, pricing = price_space(load(wide.replace("      energy:bitfusion: 0.8\n", "")), LAYERS)
    assert list(pricing.tables) == ["jouppi-7nm"]


def per_channel(strategy):
    wide = STUDY.replace("space: {", "space: {granularity: channel, ")
    return wide.replace("[{name: uniform}]", f"[{strategy}]")


def test_a_strategy_for_layers_may_search_a_per_channel_space(load):
    space, _ = price_space(load(per_channel("{name: budget_loop}")), LAYERS)
    assert space.granularity == "channel"


def test_budgets_are_checked_against_the_part_that_is_searched(load):
    with pytest.raises(InvalidStudyError, match=r"study.yaml:10: strategies\[0\]: .* 1594323 al"):
        price_space(load(per_channel("{name: exhaustive, granularity: channel}")), LAYERS)
    corner = load(per_channel("{name: exhaustive, granularity: layer}").replace(": 5", ": 9"))
    price_space(corner, LAYERS)


def test_a_limit_that_what_a_strategy_leaves_of_the_space_cannot_meet_is_refused_there(load):
    def study(min_bits, budget="{evaluations: 30, limits: {energy: 0.9}}"):
        return STUDY.replace(
            "{name: uniform}",
            f"{{name: uniform}}, {{name: eqat, min_bits: {min_bits}, budgets: [{budget}]}}",
        )

    price_space(load(study(4)), LAYERS)
    price_space(load(study(8, "{evaluations: 30}")), LAYERS)
    with pytest.raises(
        InvalidStudyError,
        match=r"^study.yaml:10: strategies\[1\].*: in what eqat leaves of the space, no ",
    ) as caught:
        price_space(load(study(8)), LAYERS)
    assert "energy <= 0.9 (of uniform 8 bit); the smallest achievable is 1: " in str(caught.value)


@pytest.mark.parametrize(
    ("members", "reason"),
    [("[8, 4]", r"energies are 1 and then 0\.\d+ of"), ("[4, [4, 8], 4]", "the same allocation")],
)
def test_a_cascade_that_begins_with_what_costs_most_is_refused_with_its_line(load, members, reason):
    def study(members):
        return STUDY.replace("{name: uniform}", f"{{name: cascade, members: {members}}}")

    price_space(load(study("[4, 8]")), LAYERS)
    with pytest.raises(InvalidStudyError, match=rf"^study.yaml:10: strategies\[0\].*: .*{reason}"):
        price_space(load(study(members)), LAYERS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (per_channel("{name: budget_loop, granularity: channel}"), "BudgetLoop searches spaces of"),
        (STUDY.replace("{name: uniform}", "{name: uniform, granularity: channel}"), "is for a per"),
    ],
)
def test_a_part_that_is_not_there_or_not_searched_is_refused_with_its_line(load, text, reason):
    with pytest.raises(
        InvalidStudyError, match=rf"^study.yaml:10: strategies\[0\].granularity: .*{reason}"
    ):
        price_space(load(text), LAYERS)
