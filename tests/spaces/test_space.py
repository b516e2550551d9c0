"""The laws of a bit-width space, on spaces small enough to count by hand or by enumeration."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.spaces import BitAllocation, BitSpace, InfeasibleError, Layer, SpaceError

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16, 32)


def make_layer(name: str, inputs: int = 3, outputs: int = 2, source: str = "") -> Layer:
    return Layer(name, "conv", 100, 54, 0, 48, 32, inputs, outputs, source=source)


def make_matmul(name: str) -> Layer:
    return Layer(name, "matmul", 100, 0, 0, 48, 32, 4, 4, operand_count=16)


@st.composite
def spaces(draw: st.DrawFn) -> BitSpace:
    """Spaces of up to three layers, with everything a study may say of them."""
    granularity = draw(st.sampled_from(["layer", "channel"]))
    count = draw(st.integers(1, 3 if granularity == "layer" else 2))
    layers = [make_layer(f"l{i}", 2, 2, source="shared") for i in range(count)]
    choices = st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=3, unique=True)
    ties = draw(
        st.sampled_from(
            [[], ["weights=activations"], ["shared-input"], [["l0.weight", f"l{count - 1}.weight"]]]
        )
    )
    weights = draw(choices)
    activations = weights if ties == ["weights=activations"] else draw(choices)
    pairs = list(itertools.product(weights, activations))
    forbid = draw(st.lists(st.sampled_from(pairs), max_size=2, unique=True))
    if granularity == "channel" and ties == ["weights=activations"]:
        forbid = []  # a channel of the weights would have to agree with every other
    try:
        return BitSpace.build(
            layers,
            weights=weights,
            activations=activations,
            granularity=granularity,
            first_last=draw(st.sampled_from([None, 8])),
            ties=ties,
            forbid=forbid,
        )
    except SpaceError:
        # Pins and forbidden pairs can leave nothing; a space without them always exists.
        return BitSpace.build(layers, weights=weights, activations=weights, first_last=None)


@given(spaces())
@settings(max_examples=60, deadline=None)
def test_size_counts_what_enumerate_yields_and_every_member_is_valid(space):
    if space.size > 3000:
        space = BitSpace.build(space.layers[:1], weights=[2, 8], activations=[4, 8])
    members = list(space.enumerate())
    assert len(members) == len(set(members)) == space.size
    assert all(space.contains(member) for member in members)


@given(spaces())
@settings(max_examples=60, deadline=None)
def test_the_layerwise_corner_is_what_has_one_width_per_operand(space):
    if space.size > 3000:
        space = BitSpace.build(space.layers[:1], weights=[2, 8], granularity="channel")
    corner = space.layerwise()
    assert set(corner.enumerate()) == {a for a in space.enumerate() if a.is_layerwise}
    assert corner.granularity == "layer"
    assert corner.layerwise() is corner
    assert [corner.weight_choices(i) for i in range(len(space.layers))] == [
        space.weight_choices(i) for i in range(len(space.layers))
    ]


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_laws_of_sampling_coding_and_variation(space, seed):
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    assert space.decode(space.encode(a)) == a
    assert space.project(a) == a
    for offspring in (space.mutate(a, rng), space.crossover(a, b, rng), space.uniform(4)):
        space.validate(offspring)
    assert BitAllocation.from_json(a.to_json()) == a
    near = list(itertools.islice(space.neighbours(a), 50))
    for neighbour in near:
        space.validate(neighbour)
        assert (space.encode(neighbour) != space.encode(a)).sum() == 1
    child = space.encode(space.crossover(a, b, rng))
    assert ((child == space.encode(a)) | (child == space.encode(b))).all()


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_projection_is_idempotent_and_lands_in_the_space(space, seed):
    rng = np.random.default_rng(seed)
    names = [layer.name for layer in space.layers]
    wild = BitAllocation(
        names,
        rng.choice(WIDTHS, len(names)),
        [rng.choice(WIDTHS, layer.in_channels) for layer in space.layers],
    )
    landed = space.project(wild)
    space.validate(landed)
    assert space.project(landed) == landed


def test_the_full_layerwise_space_has_a_power_of_members():
    layers = [make_layer(f"l{i}") for i in range(50)]
    space = BitSpace.build(layers)
    assert space.size == 7 ** (2 * 48)
    assert BitSpace.build(layers, first_last=None).size == 7**100
    assert space.genes == 96


def test_a_channel_space_counts_channels_and_keeps_matmuls_per_layer():
    layers = [make_layer("conv", inputs=3, outputs=5), make_matmul("attention.qk")]
    space = BitSpace.build(
        layers, weights=[2, 8], activations=[4, 8], granularity="channel", first_last=None
    )
    assert space.size == 2**5 * 2**3 * 2 * 2
    assert space.genes == 5 + 3 + 2


def test_forbidden_pairs_are_counted_exactly_per_channel():
    # Weights (2 channels) and activations (3 channels) of {2, 4} without w2 meeting a4:
    # no 2 among the weights: 1 x 2^3; a 2 among them: 3 ways, then all activations at 2: 3 x 1.
    space = BitSpace.build(
        [make_layer("l")], weights=[2, 4], activations=[2, 4], granularity="channel",
        first_last=None, forbid=[(2, 4)],
    )  # fmt: skip
    assert space.size == 11


def test_a_wide_channel_space_with_forbidden_pairs_is_counted_and_sampled():
    layers = [make_layer(f"l{i}", 512, 512) for i in range(8)]
    space = BitSpace.build(layers, granularity="channel", forbid=[(2, 8)])
    assert space.size.bit_length() > 8_000
    space.validate(space.sample(np.random.default_rng(0)))


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_samples_are_uniform_also_under_forbidden_pairs(granularity):
    space = BitSpace.build(
        [make_layer("l", 2, 2)], weights=[2, 4, 8], activations=[2, 4], granularity=granularity,
        first_last=None, forbid=[(2, 4), (8, 2)],
    )  # fmt: skip
    rng = np.random.default_rng(7)
    draws = 400 * space.size
    seen = Counter(space.sample(rng) for _ in range(draws))
    assert len(seen) == space.size
    # Chi-squared with size - 1 degrees of freedom; its mean is that number, 5 sigma is far.
    chi2 = sum((n - 400) ** 2 / 400 for n in seen.values())
    freedom = space.size - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5


def test_neighbours_are_all_that_differ_in_one_gene():
    space = BitSpace.build(
        [make_layer("a"), make_layer("b"), make_layer("c")], weights=[2, 4, 8], activations=[4, 8]
    )
    near = list(space.neighbours(space.uniform(8)))
    assert (
        len(near) == len(set(near)) == 2 + 1
    )  # the middle layer: two other weights, one activation


def test_pins_ties_and_choices_hold(layers):
    space = BitSpace.build(
        layers, weights=[2, 4, 8], activations=[4, 8], pins={"a": {"weight": 6}},
        choices={"b": {"weight": [2, 3]}}, ties=["shared-input"],
    )  # fmt: skip
    assert space.weight_choices(1) == (6,)
    assert space.weight_choices(2) == (2, 3)
    assert space.activation_choices(0) == space.activation_choices(3) == (8,)
    assert space.size == 2 * 2  # weight of b, and the activation that a and b share
    for member in space.enumerate():
        assert member.activations[1] == member.activations[2]


def test_first_and_last_mean_layers_with_weights():
    layers = [make_layer("conv"), make_layer("mid"), make_layer("fc"), make_matmul("qk")]
    space = BitSpace.build(layers, weights=[4], activations=[4])
    assert [space.weight_choices(i) for i in range(4)] == [(8,), (4,), (8,), (4,)]


def test_a_downsample_is_tied_to_its_branch():
    layers = [make_layer(n) for n in ("stem", "conv1", "downsample", "fc")]
    space = BitSpace.build(layers, weights=[4, 8], activations=[8], ties=[["conv1", "downsample"]])
    assert space.size == 2
    assert space.uniform(4).weights == (8, 4, 4, 8)


def test_projection_takes_the_largest_of_tied_widths_and_rounds_up():
    layers = [make_layer(n) for n in "abcd"]
    space = BitSpace.build(
        layers, weights=[2, 4, 8], activations=[4, 8], ties=[["b.weight", "c.weight"]]
    )
    wild = BitAllocation([*"abcd"], [2, 3, 2, 2], [2, 5, 16, 2])
    assert space.project(wild) == BitAllocation([*"abcd"], [8, 4, 4, 8], [8, 8, 8, 8])


def test_projection_leaves_forbidden_pairs_upwards():
    space = BitSpace.build(
        [make_layer("l")], weights=[2, 4, 8], activations=[8], first_last=None, forbid=[(2, 8)]
    )
    assert space.uniform(2).weights == (4,)


def test_minimum_finds_the_cheapest_member_under_ties_and_forbidden_pairs():
    rng = np.random.default_rng(3)
    layers = [make_layer(n) for n in "abc"]
    space = BitSpace.build(
        layers, weights=[2, 4, 8], activations=[2, 4, 8], first_last=None,
        ties=[["a.weight", "b.activation"], ["b.weight", "c.weight"]], forbid=[(2, 8), (4, 2)],
    )  # fmt: skip
    costs = rng.random((3, 33, 33))

    def cost(a: BitAllocation) -> float:
        return sum(costs[i, a.weights[i], a.activations[i]] for i in range(3))

    cheapest, where = space.minimum(costs)
    assert space.contains(where)
    assert cheapest == pytest.approx(min(map(cost, space.enumerate())), abs=1e-12)
    assert cost(where) == pytest.approx(cheapest, abs=1e-12)


def test_minimum_of_unknown_costs_is_refused():
    space = BitSpace.build([make_layer("l")])
    with pytest.raises(InfeasibleError, match="no allocation"):
        space.minimum(np.full((1, 33, 33), np.nan))


def test_mutation_changes_about_one_gene_and_obeys_its_rate():
    space = BitSpace.build([make_layer(f"l{i}") for i in range(40)])
    rng = np.random.default_rng(0)
    start = space.sample(rng)
    genes = space.encode(start)
    changed = [(space.encode(space.mutate(start, rng)) != genes).sum() for _ in range(200)]
    assert min(changed) >= 1
    assert 1.5 < np.mean(changed) < 2.5  # one for certain, and one in expectation
    assert (space.encode(space.mutate(start, rng, rate=1.0)) != genes).all()


def test_a_space_survives_pickling(layers):
    space = BitSpace.build(layers, forbid=[(2, 8)])
    copy = pickle.loads(pickle.dumps(space))
    assert copy.size == space.size
    assert copy.sample(np.random.default_rng(1)) == space.sample(np.random.default_rng(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [9]}, "width 9 is not one of 2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ({"weights": []}, "weights: expected at least one width"),
        ({"pins": {"stam": {"weight": 8}}}, "no layer matches 'stam'; did you mean 'stem'"),
        ({"pins": {"stem": {"weights": 8}}}, "must have 'weight' and/or 'activation'"),
        ({"ties": ["everything"]}, "a tie is a list of slots"),
        ({"ties": [["stem.weight", "nix.weight"]]}, "no layer matches 'nix'"),
        (
            {"weights": [2], "activations": [4], "ties": ["weights=activations"]},
            "no width in common",
        ),
        ({"weights": [2], "activations": [4], "forbid": [(2, 4)]}, "the space is empty"),
        ({"forbid": [(2, 4, 8)]}, "a forbidden pair is"),
        ({"granularity": "channel", "ties": ["weights=activations"]}, "equally many channels"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(layers, arguments, message):
    with pytest.raises(SpaceError, match=message):
        BitSpace.build(layers, **arguments)


def test_an_allocation_outside_is_refused_with_the_place(layers):
    space = BitSpace.build(layers, weights=[2, 4, 8], activations=[8])
    good = space.uniform(4)
    for bad, message in [
        (good.replace("a", weight=3), "a.weight may be 2, 4, 8 bits, got 3"),
        (good.replace("a", weight=[2, 4]), "a.weight takes one width, got 2 widths"),
        (good.replace("stem", activation=4), "stem.activation may be 8 bits, got 4"),
        (BitAllocation(["x"], [8], [8]), "for other layers"),
        ([8, 4, 4, 8], "expected a BitAllocation, got list"),
    ]:
        with pytest.raises(SpaceError, match=message):
            space.validate(bad)
        assert not space.contains(bad)


def test_genes_out_of_range_are_refused(layers):
    space = BitSpace.build(layers, weights=[2, 4], activations=[8])
    with pytest.raises(SpaceError, match="expected 2 genes"):
        space.decode([0])
    with pytest.raises(SpaceError, match=r"gene of a\.weight must be 0 to 1, got 2"):
        space.decode([2, 0])


def test_no_layers_is_refused():
    with pytest.raises(SpaceError, match="at least one layer"):
        BitSpace.build([])


def test_the_size_of_a_large_space_with_forbidden_pairs_is_exact():
    layers = [make_layer(f"layer{i}") for i in range(24)]
    space = BitSpace.build(layers, first_last=None, forbid=[(3, 3)])
    assert space.size == (7 * 7 - 1) ** 24
