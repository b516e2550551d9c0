"""What Optuna is asked, and what it is told: only what was executed."""

import logging
import warnings
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from bitfront.searchers.optuna_studies import TOO_DEAR, OptunaStudy, parameters, quiet_optuna
from bitfront.searchers.testing import synthetic_layers, tabular_problem
from bitfront.spaces import OBJECTIVES


def study_of(problem, sampler="nsga2", **options):
    return OptunaStudy(problem, sampler, **{"population": 8, "seed": 0, **options})


def trials(study, *states):
    return study._study.get_trials(states=states or (TrialState.COMPLETE,))


def allocation_of(problem, trial):
    return problem.space.decode([trial.params[name] for name in parameters(problem.space)])


def converse(study, problem, count):
    """Ask for, measure and tell of a number of allocations, one at a time."""
    known = {}
    for _ in range(count):
        for trial, allocation in study.ask_for_new(1, known, patience=500):
            (known[allocation],) = problem.evaluate([allocation])
            study.tell(trial, known[allocation])
    return known


def test_a_parameter_is_a_gene_named_after_its_operand():
    space = tabular_problem(widths=(2, 4, 8)).space
    found = parameters(space)
    names = ["conv1.weight", "conv1.activation", "conv2.weight", "conv2.activation"]
    assert list(found) == names
    assert len(found) == space.genes
    assert all((d.low, d.high) == (0, 2) for d in found.values())


def test_tied_operands_are_one_parameter():
    space = tabular_problem(ties=["weights=activations"]).space
    assert list(parameters(space)) == ["conv1.weight", "conv2.weight"]


def test_channels_have_a_parameter_each():
    space = tabular_problem(granularity="channel", pins={"*": {"activation": 8}}).space
    names = [f"conv{i}.weight[{c}]" for i in (1, 2) for c in range(4)]
    assert list(parameters(space)) == names


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe"])
def test_what_is_told_is_what_was_measured_of_the_parameters_used(sampler):
    forbid = [(2, 8), (8, 2), (4, 6), (6, 4), (2, 6)]
    problem = tabular_problem(forbid=forbid, evaluations=100)
    study = study_of(problem, sampler)
    known = converse(study, problem, 14)
    told = trials(study)
    assert len(known) == 14
    assert all(problem.space.contains(allocation) for allocation in known)
    assert {allocation_of(problem, trial) for trial in told} == set(known)
    for trial in told:
        measured = known[allocation_of(problem, trial)]
        assert trial.values == [measured.accuracy, measured.energy_vs_w8a8]
    drawn = trials(study, TrialState.FAIL)
    assert drawn, "with so many pairs forbidden some draw must have had one"
    assert not any(problem.space.contains(allocation_of(problem, trial)) for trial in drawn)
    assert not trials(study, TrialState.RUNNING, TrialState.WAITING)


def test_a_projected_draw_keeps_its_place_in_the_generation():
    problem = tabular_problem(forbid=[(2, 8), (8, 2), (4, 6), (6, 4)], evaluations=100)
    study = study_of(problem)
    converse(study, problem, 40)
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in trials(study)]
    assert generations == sorted(generations)
    assert max(generations) >= 3
    assert all(generations.count(g) == 8 for g in range(max(generations)))


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_beyond_the_limits_nothing_is_measured_and_the_truth_is_told(sampler):
    free = tabular_problem()
    limits = {name: free.price(free.space.uniform(6), name) for name in ("energy", "size")}
    problem = tabular_problem(limits=limits, evaluations=100)
    study = study_of(problem, sampler)
    known = converse(study, problem, 20)
    assert all(problem.allows(allocation) for allocation in known)
    refused = [t for t in trials(study) if max(t.constraints.values()) > 0]
    assert refused
    for trial in trials(study):
        allocation = allocation_of(problem, trial)
        assert trial.constraints == {
            name: problem.price(allocation, name) / limit - 1 for name, limit in limits.items()
        }
        assert (trial in refused) != problem.allows(allocation)
        assert trial.values[1] == problem.price(allocation)
    accuracies = [m.accuracy for m in known.values()]
    assert min(accuracies) <= refused[-1].values[0] <= max(accuracies)


def test_what_is_known_is_told_at_once_and_not_returned():
    problem = tabular_problem(widths=(4, 8), evaluations=100)
    study = study_of(problem)
    known = {m.allocation: m for m in problem.evaluate(list(problem.space.enumerate()))}
    assert study.ask_for_new(3, known, patience=25) == []
    assert study.misses == len(trials(study)) == 25
    for trial in trials(study):
        assert trial.values[0] == known[allocation_of(problem, trial)].accuracy


def test_one_allocation_asked_twice_before_it_is_measured_is_two_trials():
    problem = tabular_problem(widths=(4, 8), pins={"*": {"activation": 8}}, evaluations=100)
    study = study_of(problem)
    asked = study.ask_for_new(4, {}, patience=100)
    distinct = {allocation for _, allocation in asked}
    assert len(distinct) == problem.space.size == 4 < len(asked)


def test_a_failed_measurement_is_told_as_failed():
    problem = tabular_problem()
    study = study_of(problem)
    ((trial, allocation),) = study.ask_for_new(1, {}, patience=10)
    (measured,) = problem.evaluate([allocation])
    study.tell(trial, replace(measured, accuracy=float("nan"), error="the worker died"))
    assert [t.state for t in study._study.trials] == [TrialState.FAIL]


def test_under_a_cap_there_is_one_objective_and_the_dear_rank_below_all():
    problem = tabular_problem(evaluations=100)
    cap = problem.price(problem.space.uniform(4))
    study = study_of(problem, "cmaes", cap=cap)
    known = converse(study, problem, 20)
    assert all(problem.price(allocation) <= cap for allocation in known)
    dear = [t for t in trials(study) if problem.price(allocation_of(problem, t)) > cap]
    cheap = [t for t in trials(study) if t not in dear]
    assert dear and len(cheap) >= 20
    assert all(t.value == known[allocation_of(problem, t)].accuracy for t in cheap)
    by_price = sorted(dear, key=lambda t: problem.price(allocation_of(problem, t)))
    values = [t.value for t in by_price]
    assert values == sorted(values, reverse=True)
    assert max(values) < TOO_DEAR


def test_a_loss_under_a_cap_is_minimized():
    problem = tabular_problem(evaluations=10)
    problem.objectives = (OBJECTIVES["energy"], OBJECTIVES["loss"])
    study = study_of(problem, "cmaes", cap=10.0)
    known = converse(study, problem, 3)
    assert [t.value for t in trials(study)] == [-m.loss for m in known.values()]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "cmaes"])
def test_generations_are_as_large_as_asked(sampler):
    problem = tabular_problem()
    cap = 10.0 if sampler == "cmaes" else None
    made = study_of(problem, sampler, population=6, cap=cap)._study.sampler
    assert (made._popsize if sampler == "cmaes" else made.population_size) == 6


def test_optuna_says_nothing_and_is_left_as_it_was(caplog):
    logger = logging.getLogger("optuna")
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    try:
        filters = list(warnings.filters)
        problem = tabular_problem(evaluations=30)
        converse(study_of(problem, "nsga3"), problem, 10)
        assert logger.level == logging.INFO
        assert warnings.filters == filters
        assert not caplog.records
        optuna.create_study()
        assert "new study" in caplog.text, "or silence would prove nothing"
    finally:
        logger.removeHandler(caplog.handler)


def test_the_level_comes_back_after_an_error():
    logger = logging.getLogger("optuna")
    before = logger.level
    with pytest.raises(RuntimeError), quiet_optuna():
        raise RuntimeError
    assert logger.level == before


def test_a_space_of_one_allocation_can_be_asked_for():
    problem = tabular_problem(layers=synthetic_layers(2))
    ((_, allocation),) = study_of(problem).ask_for_new(1, {}, patience=3)
    assert allocation == problem.space.uniform(8)
