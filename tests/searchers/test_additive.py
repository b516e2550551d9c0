"""The additive model against enumeration of small spaces."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from bitfront.searchers import integer_program
from bitfront.searchers.additive import AdditiveModel
from bitfront.searchers.synthetic import synthetic_layers
from bitfront.spaces import (
    BitAllocation,
    BitSpace,
    InfeasibleError,
    OutOfTimeError,
    SolverError,
    SpaceError,
    StudyError,
)

WIDTHS = (2, 3, 4, 8, 16)
TIES = (
    [],
    ["weights=activations"],
    [["conv0.weight", "conv2.weight"]],
    [["conv0.weight", "conv1.activation"], ["conv1.weight", "conv2.weight"]],
    [["conv0", "conv1", "conv2"]],
)
VALUES = {  # coarse ones, for many equal sums; of very different sizes; and any
    "coarse": st.sampled_from([0.0, 1.0, 2.0, 3.0]),
    "wide": st.sampled_from([1e-6, 1e-3, 0.0, 1.0, 7.0, 1e3]),
    "any": st.floats(-10, 10, allow_subnormal=False),
}


@st.composite
def spaces(draw):
    """Spaces of three layers with everything a study may say of them."""
    widths = st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=3, unique=True)
    ties = draw(st.sampled_from(TIES))
    weights = draw(widths)
    activations = weights if ties else draw(widths)
    pairs = [pair for pair in itertools.product(weights, activations) if len(set(pair)) > 1]
    try:
        return BitSpace.build(
            synthetic_layers(3),
            weights=weights,
            activations=activations,
            first_last=draw(st.sampled_from([None, 8])) if not ties else None,
            ties=ties,
            forbid=draw(st.lists(st.sampled_from(pairs), max_size=2)) if pairs else [],
            granularity="layer" if ties else draw(st.sampled_from(["layer", "channel"])),
        )
    except SpaceError:  # the forbidden pairs leave nothing
        reject()


@st.composite
def tables(draw, space, kind):
    """Values by layer and both widths, drawn where a width is offered and NaN elsewhere."""
    values = np.full((len(space.layers), 33, 33), np.nan)
    for layer in range(len(space.layers)):
        for pair in itertools.product(space.weight_choices(layer), space.activation_choices(layer)):
            values[(layer, *pair)] = draw(VALUES[kind])
    return values


@st.composite
def cases(draw):
    """A space, scores and two costs of it."""
    space = draw(spaces())
    kinds = draw(st.tuples(*[st.sampled_from(["coarse", "any"])] * 2))
    scores = draw(tables(space, draw(st.sampled_from([*VALUES]))))
    return space, scores, [draw(tables(space, kind)) for kind in kinds]


def sums(space, *values):
    """Return the exact sums of every layer-wise allocation of a space by enumeration, n x k."""
    layers = [
        [*itertools.product(space.weight_choices(i), space.activation_choices(i))]
        for i in range(len(space.layers))
    ]
    names = [layer.name for layer in space.layers]
    rows = []
    for pairs in itertools.product(*layers):
        if space.contains(BitAllocation(names, *map(list, zip(*pairs, strict=True)))):
            index = [(i, *pair) for i, pair in enumerate(pairs)]
            rows.append([math.fsum(table[i] for i in index) for table in values])
    return np.array(rows)


def front(rows):
    """Return the non-dominated rows of (cost, score) by the definition, cheapest first."""
    return sorted(
        {
            tuple(row)
            for row in rows
            if not any((other <= row).all() and (other < row).any() for other in rows)
        }
    )


def of_pairs(space, value):
    """Return a table of a function of layer, weight bits and activation bits."""
    return np.fromfunction(np.vectorize(value), (len(space.layers), 33, 33), dtype=int).astype(
        float
    )


# Solving


@given(cases(), st.data())
@settings(max_examples=60, deadline=None)
def test_the_solution_is_the_best_of_all_within_the_limits(case, data):
    space, scores, costs = case
    rows = sums(space, scores, *costs)
    # Limits that are exactly met, on the smallest or any other cost, and others.
    limits = {
        f"cost {i}": (costs[i], data.draw(st.sampled_from([*rows[:, i + 1]]) | st.floats(-9, 40)))
        for i in range(data.draw(st.integers(0, 2)))
    }
    within = rows[[all(row[1 + i] <= v[1] for i, v in enumerate(limits.values())) for row in rows]]
    model = AdditiveModel(space, scores)
    if not len(within):
        with pytest.raises(InfeasibleError, match="smallest achievable"):
            model.solve(limits)
        return
    solution = model.solve(limits)
    space.validate(solution.allocation)
    assert solution.status == "optimal"
    assert solution.score == model.predict(solution.allocation)
    assert solution.score == pytest.approx(within[:, 0].min(), rel=1e-9, abs=1e-9)
    assert solution.bound <= solution.score
    assert solution.gap < 1e-6
    assert all(solution.costs[name] <= limit for name, (_, limit) in limits.items())


def test_a_limit_is_never_broken_by_a_rounding_error():
    # 0.1 three times is above 0.3 in floating point, and far within a solver's tolerance.
    space = BitSpace.build(synthetic_layers(3), weights=[4, 8], activations=[8], first_last=None)
    costs = of_pairs(space, lambda i, w, a: 0.1 if w == 8 else 0.05)
    scores = of_pairs(space, lambda i, w, a: 8 - w)
    most = math.fsum([0.1, 0.1, 0.1])
    model = AdditiveModel(space, scores)
    assert model.solve({"cost": (costs, most)}).score == 0
    below = model.solve({"cost": (costs, most * (1 - 1e-11))})
    assert below.score == 4
    assert below.status == "optimal"


def test_more_equal_answers_than_are_forbidden_one_by_one():
    # 70 choices of four 8-bit layers of eight cost the same, a hair above the limit.
    space = BitSpace.build(synthetic_layers(8), weights=[4, 8], activations=[8], first_last=None)
    costs = of_pairs(space, lambda i, w, a: float(w == 8))
    scores = of_pairs(space, lambda i, w, a: 8 - w)
    solution = AdditiveModel(space, scores).solve({"cost": (costs, 4 * (1 - 1e-11))})
    assert solution.score == 20
    assert solution.costs == {"cost": 3}
    assert solution.bound == pytest.approx(16)
    assert (solution.status, solution.gap) == ("feasible", pytest.approx(0.2))


def test_scores_of_very_different_sizes_are_told_apart():
    # The difference that decides is 1e-9 of what is left out.
    space = BitSpace.build(synthetic_layers(4), weights=[2, 4, 8], activations=[8], first_last=None)
    score = {2: 1e6, 4: 1e-3, 8: 0.0}
    scores = of_pairs(space, lambda i, w, a: score.get(w, 1.0) * (1 + 1e-3 * i))
    costs = of_pairs(space, lambda i, w, a: w)
    solution = AdditiveModel(space, scores).solve({"size": (costs, 28.0)})
    assert solution.allocation.weights == (4, 8, 8, 8)


def test_what_has_no_score_or_no_cost_is_never_chosen():
    space = BitSpace.build(synthetic_layers(3), weights=[2, 4, 8], activations=[8], first_last=None)
    scores = of_pairs(space, lambda i, w, a: 8 - w)
    costs = of_pairs(space, lambda i, w, a: w)
    scores[0, 8], costs[1, 8] = np.nan, np.nan
    model = AdditiveModel(space, scores)
    assert model.solve({"size": (costs, 99.0)}).allocation.weights == (4, 4, 8)
    assert model.solve({}).allocation.weights == (4, 8, 8)
    assert model.curve(costs).allocation(-1).weights == (4, 4, 8)
    assert math.isnan(model.predict(space.uniform(8)))


# Limits that cannot hold


@pytest.fixture
def plain():
    """Four layers; bytes that grow with the weights' widths and work that falls with them."""
    space = BitSpace.build(synthetic_layers(4), weights=[2, 4, 8], activations=[8], first_last=None)
    model = AdditiveModel(space, of_pairs(space, lambda i, w, a: (8 - w) * (i + 1)))
    return model, {
        "size": of_pairs(space, lambda i, w, a: w),
        "work": of_pairs(space, lambda i, w, a: 10 - w),
        "energy": of_pairs(space, lambda i, w, a: w / 8),
    }


def test_an_impossible_limit_is_named_with_the_smallest_cost(plain):
    model, costs = plain
    message = "no allocation has size <= 7; the smallest achievable is 8: raise the limit"
    with pytest.raises(InfeasibleError, match=message):
        model.solve({"energy": (costs["energy"], 4.0), "size": (costs["size"], 7.0)})


def test_limits_that_exclude_each_other_are_named_and_no_other(plain):
    model, costs = plain
    limits = {"size": 20.0, "energy": 4.0, "work": 17.0}
    with pytest.raises(InfeasibleError) as refused:
        model.solve({name: (costs[name], limit) for name, limit in limits.items()})
    # Sizes are even and work is 40 - size: at most 20 leaves 20, at most 17 needs 24.
    assert str(refused.value).startswith(
        "no allocation has size <= 20 and work <= 17 at once; with the others kept, the smallest "
        "achievable is size 24 or work 20: "
    )


def test_ties_that_leave_nothing_scored_are_said():
    space = BitSpace.build(
        synthetic_layers(2),
        weights=[4, 8],
        activations=[8],
        first_last=None,
        ties=[["conv0.weight", "conv1.weight"]],
    )
    scores = of_pairs(space, lambda i, w, a: 0.0)
    scores[0, 4], scores[1, 8] = np.nan, np.nan
    model = AdditiveModel(space, scores)
    for ask in (lambda: model.solve({}), lambda: model.curve(np.zeros_like(scores))):
        with pytest.raises(InfeasibleError, match="known"):
            ask()


def test_a_layer_without_any_score_is_named():
    space = BitSpace.build(synthetic_layers(2), weights=[4, 8], activations=[8], first_last=None)
    scores = np.zeros((2, 33, 33))
    scores[1] = np.nan
    with pytest.raises(InfeasibleError, match="'conv1' may have is scored"):
        AdditiveModel(space, scores)


# Time and failures


def hard():
    """A knapsack of correlated items, which takes a solver a while."""
    rng = np.random.default_rng(0)
    space = BitSpace.build(synthetic_layers(60), first_last=None)
    costs = rng.integers(1000, 2000, (60, 33, 33)).astype(float)
    scores = -costs + rng.integers(0, 3, costs.shape)
    return AdditiveModel(space, scores), costs


def test_an_answer_that_time_did_not_prove_says_how_good_it_is(monkeypatch):
    model, costs = hard()
    limits = {"cost": (costs, 90_000.5)}
    import scipy.optimize

    milp = scipy.optimize.milp

    def stopped(*args, **kwargs):
        found = milp(*args, **kwargs)
        found.status, found.mip_dual_bound = 1, found.mip_dual_bound * 0.9
        return found

    proven = model.solve(limits)
    monkeypatch.setattr(scipy.optimize, "milp", stopped)
    solution = model.solve(limits)
    assert solution.status == "feasible"
    assert solution.bound < solution.score == pytest.approx(proven.score, abs=1)
    assert solution.gap == pytest.approx((solution.score - solution.bound) / abs(solution.score))
    assert solution.costs["cost"] <= 90_000.5


def test_no_answer_in_time_is_not_called_infeasible(monkeypatch, plain):
    model, costs = plain
    import scipy.optimize

    asked = []

    def too_slow(*args, options, **kwargs):
        asked.append(options["time_limit"])
        return scipy.optimize.OptimizeResult(status=1, x=None, mip_dual_bound=0.0, message="")

    monkeypatch.setattr(scipy.optimize, "milp", too_slow)
    with pytest.raises(OutOfTimeError, match=r"within 0\.5 s, which does not mean .*: raise"):
        model.solve({"size": (costs["size"], 20.0)}, time_limit_s=0.5)
    assert asked == [pytest.approx(0.5, abs=0.2)]


def test_a_solver_that_fails_says_so(monkeypatch, plain):
    model, costs = plain
    import scipy.optimize

    failed = scipy.optimize.OptimizeResult(status=4, x=None, mip_dual_bound=None, message="broke")
    monkeypatch.setattr(scipy.optimize, "milp", lambda *args, **kwargs: failed)
    with pytest.raises(SolverError, match="HiGHS says 'broke'"):
        model.solve({"size": (costs["size"], 20.0)})


def test_a_solver_that_breaks_the_limits_is_not_believed(monkeypatch, plain):
    model, costs = plain
    solve = integer_program._Program.solve

    def careless(self, time_limit_s):
        self._rows = self._rows[:4]  # one pair per layer, and no limit
        return solve(self, time_limit_s)

    monkeypatch.setattr(integer_program._Program, "solve", careless)
    with pytest.raises(SolverError, match="breaks the limits"):
        model.solve({"size": (costs["size"], 20.0)})


# The curve


@given(cases())
@settings(max_examples=60, deadline=None)
def test_the_curve_is_the_front_of_everything(case):
    space, scores, (costs, other) = case
    rows = sums(space, costs, scores)
    model = AdditiveModel(space, scores)
    curve = model.curve(costs)
    assert curve.is_exact
    expected = np.array(front(np.round(rows, 9)))
    assert curve.costs == pytest.approx(expected[:, 0], abs=1e-8)
    assert curve.scores == pytest.approx(expected[:, 1], abs=1e-8)
    for i in range(len(curve)):
        space.validate(curve.allocation(i))
        assert model.predict(curve.allocation(i)) == curve.scores[i]
    again = AdditiveModel(space, other)
    assert curve.totals(other).tolist() == [
        again.predict(curve.allocation(i)) for i in range(len(curve))
    ]


@given(cases(), st.floats(-5, 30))
@settings(max_examples=30, deadline=None)
def test_the_curve_agrees_with_the_solver_at_every_budget(case, limit):
    space, scores, (costs, _) = case
    model = AdditiveModel(space, scores)
    curve = model.curve(costs)
    for budget, expected in [*zip(curve.costs, curve.scores, strict=True)][:5]:
        assert model.solve({"c": (costs, budget)}).score == pytest.approx(expected, abs=1e-8)
    index = curve.within(limit)
    if index is None:
        with pytest.raises(InfeasibleError):
            model.solve({"c": (costs, limit)})
    else:
        solved = model.solve({"c": (costs, limit)}).score
        assert solved == pytest.approx(curve.scores[index], abs=1e-8)


@given(cases(), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_a_thinned_curve_has_real_points_and_admits_it(case, cap):
    space, scores, (costs, _) = case
    model = AdditiveModel(space, scores)
    whole, thin = model.curve(costs), model.curve(costs, cap=cap)
    assert len(thin) <= cap
    assert whole.is_exact
    assert thin.costs.tolist() == whole.costs.tolist() if thin.is_exact else len(whole) > 1
    assert thin.costs[0] == pytest.approx(whole.costs[0], abs=1e-8)
    assert thin.scores[-1] == pytest.approx(whole.scores[-1], abs=1e-8)
    assert (np.diff(thin.costs) > 0).all()
    assert (np.diff(thin.scores) < 0).all()
    for i in range(len(thin)):
        space.validate(thin.allocation(i))
        assert model.predict(thin.allocation(i)) == thin.scores[i]


def landscape(count, widths, seed=0):
    """A space of many layers, scores like those of a network, and costs like an energy."""
    rng = np.random.default_rng(seed)
    space = BitSpace.build(
        synthetic_layers(count), weights=widths[0], activations=widths[1], first_last=None
    )
    noise = 4.0 ** -np.arange(33.0)
    sensitivity = 100.0 ** rng.random((2, count, 1, 1))
    scores = sensitivity[0] * noise[:, None] + sensitivity[1] * noise
    products = np.outer(np.arange(33.0), np.arange(33.0))
    return AdditiveModel(space, scores), rng.random((count, 1, 1)) * products


def test_twenty_layers_of_three_widths_are_exact():
    model, costs = landscape(20, ([2, 4, 8], [8]))
    curve = model.curve(costs, cap=100_000)
    assert curve.is_exact
    for budget in np.linspace(curve.costs[0], curve.costs[-1], 5):
        solution = model.solve({"energy": (costs, float(budget))})
        assert solution.score == pytest.approx(curve.scores[curve.within(budget)], rel=1e-9)


@pytest.mark.slow
def test_fifty_layers_of_forty_nine_pairs_are_near_the_optimum():
    model, costs = landscape(50, (range(2, 9), range(2, 9)))
    curve = model.curve(costs)
    assert len(curve) <= 4096
    assert not curve.is_exact
    for budget in np.linspace(curve.costs[0], curve.costs[-1], 6)[1:]:
        solution = model.solve({"energy": (costs, float(budget))})
        near = curve.scores[curve.within(budget)]
        assert solution.status == "optimal"
        assert solution.score * (1 - 1e-9) <= near <= solution.score * 1.02


# Bad input


def test_wrong_arguments_are_refused(plain):
    model, costs = plain
    with pytest.raises(SpaceError, match=r"scores must have shape \(4, .*, got \(3, 33, 33\)"):
        AdditiveModel(model.space, np.zeros((3, 33, 33)))
    with pytest.raises(SpaceError, match=r"size must have shape"):
        model.solve({"size": (np.zeros((4, 33)), 1.0)})
    with pytest.raises(StudyError, match="positive number of seconds, got 0"):
        model.solve({}, time_limit_s=0)
    with pytest.raises(StudyError, match="at least 2 points, got 1"):
        model.curve(costs["size"], cap=1)
    with pytest.raises(SpaceError, match="one width per operand"):
        model.predict(BitAllocation(["a"], [4], [8]))


def test_a_solution_is_plain_values(plain):
    model, costs = plain
    solution = model.solve({"size": (costs["size"], 20.0)})
    plain_values = json.loads(json.dumps(solution.to_dict()))
    assert BitAllocation.from_dict(plain_values["allocation"]) == solution.allocation
    assert plain_values["status"] == "optimal"
    assert plain_values["costs"] == {"size": 20.0}
