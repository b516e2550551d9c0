"""Search strategies, and what is needed to write one.

A strategy subclasses `Searcher`, gets a `Problem` and asks it to measure allocations. Strategies
are made by name with `build`. The conformance suite for strategies of your own is in
`bitfront.searchers.testing`.
"""

from .autoq import AutoQ
from .base import Searcher
from .budget import Budget, BudgetSpent
from .budget_loop import BudgetLoop
from .cascade import Cascade
from .checkpoint import CheckpointStore, State
from .edmips import EdMips
from .eqat import Eqat
from .exhaustive import Exhaustive
from .frontier import Frontier
from .greedy import Greedy
from .haq import Haq
from .hawq import Hawq
from .ilp import Ilp
from .learnprec import LearnPrec
from .learnprec_joint import LearnPrecJoint
from .lsq import Lsq
from .optuna_search import OptunaSearch
from .percentile import Percentile
from .pricing import Pricing
from .problem import Evaluator, ModelSource, Problem, ScoreStore
from .random_search import RandomSearch
from .registry import (
    ENTRY_POINT_GROUP,
    Description,
    build,
    describe,
    get,
    register,
    strategy_names,
)
from .settings import Setting
from .uniform import Uniform

__all__ = [
    "ENTRY_POINT_GROUP",
    "AutoQ",
    "Budget",
    "BudgetLoop",
    "BudgetSpent",
    "Cascade",
    "CheckpointStore",
    "Description",
    "EdMips",
    "Eqat",
    "Evaluator",
    "Exhaustive",
    "Frontier",
    "Greedy",
    "Haq",
    "Hawq",
    "Ilp",
    "LearnPrec",
    "LearnPrecJoint",
    "Lsq",
    "ModelSource",
    "OptunaSearch",
    "Percentile",
    "Pricing",
    "Problem",
    "RandomSearch",
    "ScoreStore",
    "Searcher",
    "Setting",
    "State",
    "Uniform",
    "build",
    "describe",
    "get",
    "register",
    "strategy_names",
]
