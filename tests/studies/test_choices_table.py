"""What dynamic networks chose, as the terminal shows it."""

import json
from dataclasses import replace

import pytest

from bitfront.spaces import Usage
from bitfront.studies.choices_table import HEADING, choices_parts, worth
from bitfront.studies.show import point_rows, render
from tests.studies.dynamic_study import CASCADE, CHANNELS, dynamic, dynamic_result
from tests.studies.test_show import text_of

CASCADE_SCREEN = """\
cascade: cascade
finalist    accuracy        energy      5-95 %  deciding   wide bits w/a
s0,1 c0c0c0  97.50 % 0.530 ± 0.200 0.250-1.800 <0.0001 % 12.5 %  4.5/5.2

finalist    member w/a by layer energy  run on answered threshold temperature
s0,1 c0c0c0      1      4.0/4.0 0.2500 100.0 %   68.8 %     0.900       1.500
                 2      6.0/6.0 0.5625  25.0 %   18.8 %     0.600       1.250
                 3      8.0/8.0 1.0000  12.5 %   12.5 %

finalist    entropy of inputs bits accuracy energy   wide
s0,1 c0c0c0 low               0.91 100.00 % 0.3000  5.0 %
            middle            1.42  98.00 % 0.5000 10.0 %
            high              2.03  95.00 % 0.8000 22.5 %
"""

CHANNELS_SCREEN = """\
learnprec: channels
finalist  accuracy        energy      5-95 % deciding   wide early/late bits w/a
s0 a0a0a0  97.50 % 0.500 ± 0.031 0.450-0.561 0.0500 % 35.8 %  75.0/12.5  7.5/5.2

finalist   8 bit  4 bit wide Q wide K
s0 a0a0a0 35.8 % 64.2 % 62.5 % 50.0 %

finalist  entropy of inputs bits accuracy energy   wide
s0 a0a0a0 low               0.91  99.00 % 0.4600 20.0 %
          middle            1.42  97.50 % 0.5000 35.0 %
          high              2.03  96.00 % 0.5400 50.0 %

finalist        choices  accuracy energy following the input is worth, points
s0 a0a0a0       static    96.50 % 0.4975                         +1.00 ± 0.80
                shuffled  97.45 % 0.5000                   tie (+0.05 ± 0.57)
mean of 2 seeds static                                     tie (+0.75 ± 3.18)
"""


@pytest.fixture(scope="module")
def result():
    return dynamic_result()


def screen(renderable, width: int = 100) -> str:
    text = text_of(renderable, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.mark.parametrize("width", [80, 100])
def test_what_the_front_chose_stands_below_it(result, width):
    text = screen(render(result), width)
    assert text.index("8 bit") < text.index(HEADING) < text.index("images forward")
    assert f"{HEADING}: energies relative to uniform 8 bit, table horowitz-45nm" in text
    assert CHANNELS_SCREEN in text
    assert CASCADE_SCREEN in text


def test_strategies_keep_the_order_of_the_study(result):
    text = screen(render(result))
    assert text.index("learnprec: channels") < text.index("cascade: cascade")


def test_only_what_is_shown_is_told_of(result):
    text = screen(render(result))
    assert "a1a1a1" not in text
    assert "a1a1a1" in screen(render(result, everything=True))


def test_a_study_of_static_allocations_has_no_such_section(synthetic_result, result):
    assert choices_parts(synthetic_result, synthetic_result.points) == []
    assert choices_parts(result, result.points[:1]) == []
    assert HEADING not in text_of(render(synthetic_result))


def test_seeds_count_once_however_many_finalists_they_have(result):
    # Seed 0 has two finalists worth a point each, seed 1 one worth half a point.
    assert "mean of 2 seeds static" in screen(render(result))
    alone = replace(result, points=tuple(p for p in result.points if p.seed == 0))
    assert "seeds static" not in screen(render(alone))


def test_two_widths_without_attention_need_no_table_of_shares(result):
    plain = replace(
        CHANNELS,
        allocation=replace(
            CHANNELS.allocation,
            members=tuple(
                type(m)(("conv", "mix", "fc"), list(m.weights), list(m.activations))
                for m in CHANNELS.allocation.members
            ),
            selectors=tuple(
                replace(s, layer=s.layer.replace("attn.qk", "mix"))
                for s in CHANNELS.allocation.selectors
            ),
        ),
    )
    point = replace(result.points[1], test=dynamic(plain, "d0" * 16))
    text = screen(render(replace(result, points=(point,))))
    assert "wide Q" not in text
    assert "4 bit" not in text


def test_what_a_table_cannot_price_is_left_blank(result):
    nan = float("nan")
    usage = replace(CHANNELS, energy_std=nan, energy_quantiles=(nan,) * 5)
    point = replace(result.points[1], test=dynamic(usage, "d0" * 16, energy=nan, energy_pj=None))
    by_size = replace(result, spec={**result.spec, "objectives": ["accuracy", "size"]})
    assert "nan" not in screen(render(replace(by_size, points=(point,))))


def test_a_failed_finalist_has_nothing_to_show(result):
    broken = replace(result.points[1].test, accuracy=float("nan"), error="not finite")
    points = [replace(result.points[1], test=broken)]
    assert choices_parts(result, points) == []


def test_what_following_the_input_is_worth_is_paired(result):
    found = worth(result.points[1].test)
    assert found["static"].points == pytest.approx(1.0)
    assert found["shuffled"].is_tie
    assert worth(result.points[0].test) == {}


def test_rows_hold_all_of_what_was_chosen(result):
    rows = json.loads(json.dumps(point_rows(result.points), allow_nan=False))
    assert rows[0]["dynamic"] is None
    assert Usage.from_dict(rows[1]["dynamic"]) == CHANNELS
    assert Usage.from_dict(rows[4]["dynamic"]) == CASCADE
