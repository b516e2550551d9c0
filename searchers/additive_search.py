"""Measuring what an additive model says is best: within all limits first, then at every cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spaces import BitAllocation, BitSpace, InfeasibleError, OutOfTimeError
from .additive import AdditiveModel, Curve, Solution
from .pricing import SLACK, Pricing, is_within
from .problem import Problem
from .spread import farthest_first

MOST_SOLVED = 64
"""How many further budgets are solved for where the Pareto set is beyond the limits."""


def measure_best(
    problem: Problem, model: AdditiveModel, predicts: str, time_limit_s: float
) -> None:
    """Measure the best allocation within the limits, then the best ones at other costs.

    The costs are those the study compares (`Problem.cost_name`), and after the first allocation it
    is always the one whose cost is farthest from those before. What the solver said, and the scores
    of what is measured, become findings of the problem.

    Args:
        problem: The problem; its network is not used.
        model: Scores of the problem's space.
        predicts: What the scores are called.
        time_limit_s: Seconds the solver may take for each answer.

    Raises:
        InfeasibleError: If nothing in the space is within all of the limits.
        OutOfTimeError: If the solver found nothing within them in its time.
        SolverError: If the solver failed.
    """
    limits = problem.budget.limits
    solved = [solve_within(problem.pricing, model, limits, time_limit_s)] if limits else []
    curve = model.curve(problem.layer_costs(problem.cost_name))
    inside = np.arange(len(curve))[::-1]  # without limits, the best score comes first
    for name, limit in limits.items():
        inside = inside[is_within(curve.totals(problem.layer_costs(name))[inside], limit)]
    if len(inside) < problem.remaining and set(limits) - {problem.cost_name}:
        solved += _at_other_costs(problem, model, solved[0], time_limit_s)
    chosen = _spread(problem, [solution.allocation for solution in solved], curve, inside)
    problem.findings["solver"] = [solution.to_dict() for solution in solved]
    problem.findings["predicts"] = predicts
    problem.findings["predicted"] = {a.key: model.predict(a) for a in chosen}
    problem.evaluate(chosen)


def solve_within(
    pricing: Pricing, model: AdditiveModel, limits: Mapping[str, float], time_limit_s: float
) -> Solution:
    """Return the allocation with the smallest score among those whose price is within limits.

    Args:
        pricing: Prices allocations.
        model: Scores of the problem's space.
        limits: Name of a cost -> the largest acceptable price.
        time_limit_s: Seconds the solver may take.

    Raises:
        InfeasibleError: If there is none.
        OutOfTimeError: If the solver found none in its time.
        SolverError: If the solver failed.
    """
    costs = {name: pricing.layer_costs(name) for name in limits}
    most = dict(limits)
    while True:
        solution = model.solve(
            {name: (costs[name], most[name]) for name in limits}, time_limit_s=time_limit_s
        )
        # A price can be above the sum over the layers: sizes are rounded up to bytes.
        prices = {name: pricing.price(solution.allocation, name) for name in limits}
        beyond = [name for name in limits if not is_within(prices[name], limits[name])]
        if not beyond:
            return solution
        for name in beyond:
            most[name] = solution.costs[name] * (1 - 10 * SLACK)


def cheapest_within(
    space: BitSpace, pricing: Pricing, limits: Mapping[str, float]
) -> BitAllocation:
    """Return an allocation with one width per layer that is within all limits, a cheap one.

    It is the cheapest by the first limit or, where that is not within the others, by the sum of all
    costs, each relative to its limit.

    Args:
        space: Where to look; of a per-channel space the layer-wise corner.
        pricing: What allocations cost.
        limits: Name of a cost -> the largest acceptable price; at least one.

    Raises:
        InfeasibleError: If there is none.
    """
    _, cheapest = space.minimum(pricing.layer_costs(next(iter(limits))))
    if pricing.allows(cheapest, limits):
        return cheapest
    shares = np.sum([pricing.layer_costs(name) / limits[name] for name in limits], axis=0)
    return solve_within(pricing, AdditiveModel(space.layerwise(), shares), limits, 60.0).allocation


def _at_other_costs(
    problem: Problem, model: AdditiveModel, best: Solution, time_limit_s: float
) -> list[Solution]:
    """Solve for evenly spaced budgets from the cheapest allocation within the limits to the best.

    The Pareto set of one cost knows nothing of other limits. Where these bind, what is best at a
    cost is found budget by budget.
    """
    name, limits = problem.cost_name, problem.budget.limits
    costs = np.where(np.isnan(model.scores), np.nan, problem.layer_costs(name))
    found: list[Solution] = []
    try:
        pricing = problem.pricing
        cheapest = solve_within(pricing, AdditiveModel(problem.space, costs), limits, time_limit_s)
        low, high = (problem.price(s.allocation, name) for s in (cheapest, best))
        count = min(problem.remaining, MOST_SOLVED) if high > low * (1 + 1e-9) else 0
        for budget in np.linspace(low, high, count + 1)[:-1]:
            found.append(solve_within(pricing, model, {**limits, name: budget}, time_limit_s))
    except (InfeasibleError, OutOfTimeError):
        pass  # what was found will do
    return found


def _spread(
    problem: Problem, solved: list[BitAllocation], curve: Curve, inside: Any
) -> list[BitAllocation]:
    """Return as many allocations as can be measured, in an order that spans the costs.

    Args:
        problem: Says how many, and which are within the limits.
        solved: Allocations to choose from; the first one comes first.
        curve: More of them.
        inside: Which points of the curve.
    """
    prices = [problem.price(allocation, problem.cost_name) for allocation in solved]
    chosen: dict[BitAllocation, None] = {}
    for index in farthest_first([*prices, *curve.costs[inside]]):
        further = index - len(solved)
        allocation = solved[index] if further < 0 else curve.allocation(inside[further])
        if problem.allows(allocation):
            chosen[allocation] = None
        if len(chosen) == problem.remaining:
            break
    return list(chosen)
