"""HAQ: an agent walks through the layers and chooses their widths, one after the other.

[HAQ19] Wang, Liu, Lin, Lin, Han. HAQ: Hardware-Aware Automated Quantization with Mixed Precision.
CVPR 2019, and the code of mit-han-lab/haq.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..spaces import KNOWN_WIDTHS, BitAllocation, BitSpace, InfeasibleError, StudyError
from ..spaces.constraints import Variable
from ..spaces.slots import OPERANDS
from .additive_search import cheapest_within
from .base import Searcher
from .budget_loop import Limits, budget_loop
from .episodes import Episodes, Reward, quality
from .layer_features import layer_features
from .pricing import is_within
from .problem import Problem
from .registry import register
from .replay import Floats, Memory, Transitions, under
from .steps import (
    Widths,
    allocation_of,
    cost_of,
    set_width,
    widest,
    width_of,
    widths_of,
    with_width,
)

if TYPE_CHECKING:  # torch stays out until there is something to learn
    from .ddpg import Agent

Trim = Literal["level", "loop"]
"""How an episode is made to respect the budget: `level`, or the paper's `budget_loop`."""

_MEMORY_EPISODES = 128
_BATCH = 64
_PREVIOUS = 8
_GOLDEN = (math.sqrt(5) - 1) / 2


@register("haq")
@dataclass(frozen=True, kw_only=True)
class Haq(Searcher):
    """Learns from whole allocations which layers need how many bits [HAQ19].

    In an episode an actor chooses a width for every operand that has a choice, in network order,
    the weights of a layer before its activations. It is told of the layer, of the operand and of
    the choice before. What is too dear for the budget is trimmed; the reward is what the trimmed
    allocation is measured to be worth, and every choice of the episode gets it. A critic learns
    what choices are worth, and the actor learns from the critic.

    One search is for one budget: the limits. Without limits every episode has a target of its own,
    spread evenly over all costs, and the actor is told it.

    The defaults are for a few hundred evaluations after training; the paper's own are on the page
    of the strategy, with what each difference is worth.

    Attributes:
        warmup: Episodes of uniformly random choices, before the actor is asked; at most a third
            of the budget.
        sigma: Noise of the actor's first choices: a choice is a number in [0, 1].
        sigma_end: Noise of its last ones; in between it falls geometrically.
        actors: Episodes that are measured at a time, each with more noise than the one before.
        reward: What an episode is worth: ``loss``, the fall of the log of the loss below that of
            the float network, or ``accuracy``, a tenth of the points above it.
        trim: ``level`` moves all choices up or down alike until they use the budget; ``loop`` is
            the paper's, which lowers them from the last to the first until they fit.
        gamma: Discount: 0 takes what an episode was worth for the worth of each of its choices, 1
            sums up what is still to come, as the paper does.
        updates: Updates of the critic for every choice made.
        actor_every: The actor learns in one of so many updates, the critic in each.
        actor_lr: Learning rate of the actor.
        critic_lr: Learning rate of the critic.
    """

    summary: ClassVar[str] = "A DDPG agent chooses widths layer by layer, within the budget."
    paper: ClassVar[str] = "Wang et al., HAQ, CVPR 2019"

    warmup: int = 0
    sigma: float = 0.1
    sigma_end: float = 0.05
    actors: int = 2
    reward: Reward = "loss"
    trim: Trim = "level"
    gamma: float = 0.0
    updates: float = 1.0
    actor_every: int = 2
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3

    def __post_init__(self) -> None:
        if (
            self.warmup < 0
            or not 0 <= self.updates < math.inf
            or self.actors < 1
            or self.actor_every < 1
        ):
            raise StudyError(
                "warmup and updates must not be negative, actors and actor_every at least 1, got "
                f"{self.warmup}, {self.updates}, {self.actors} and {self.actor_every}"
            )
        if not 0 < self.sigma_end <= self.sigma < math.inf or not 0 <= self.gamma <= 1:
            raise StudyError(
                "the noise must fall from sigma to a positive sigma_end and gamma be in [0, 1], "
                f"got {self.sigma}, {self.sigma_end} and {self.gamma}"
            )
        if not (0 < self.actor_lr < math.inf and 0 < self.critic_lr < math.inf):
            raise StudyError(
                f"learning rates must be positive, got {self.actor_lr} and {self.critic_lr}"
            )

    def search(self, problem: Problem) -> None:
        """Propose, measure and learn from episodes until the budget is spent."""
        run = _Run(self, problem)
        if not run.steps:  # everything is pinned
            run.episodes.measure([problem.space.uniform(KNOWN_WIDTHS[-1])])
            return
        if problem.saved is not None:
            run.restore(problem.saved)
        while not run.episodes.is_over:
            if not run.proposed:
                run.propose()
            problem.save(run.state())  # what takes time comes now: in the middle of episodes
            run.learn()
        problem.findings["policy"] = run.agent.digest


class _Run:
    """One search: what was learned so far, and the episodes that are under way."""

    def __init__(self, settings: Haq, problem: Problem) -> None:
        from .ddpg import Agent, AgentConfig

        self._settings = settings
        self._problem = problem
        self._walk = Walk(problem)
        self.steps = self._walk.steps
        config = AgentConfig(
            gamma=settings.gamma,
            actor_every=settings.actor_every,
            actor_lr=settings.actor_lr,
            critic_lr=settings.critic_lr,
        )
        # Its first weights have a generator of their own: a run that goes on has others by then.
        self.agent = Agent(self._walk.features, problem.rng.spawn(1)[0], config)
        self._memory = Memory(self._walk.features, _MEMORY_EPISODES * self.steps)
        self._warmup = min(settings.warmup, problem.budget.evaluations // 3)
        self.episodes = Episodes(problem, quality(settings.reward, problem.baseline))
        self.proposed: list[tuple[BitAllocation, float]] = []

    def propose(self) -> None:
        """Let several actors walk through the layers side by side."""
        problem, walk = self._problem, self._walk
        count = min(self._settings.actors, problem.remaining)
        told = np.array([walk.target(self.episodes.count + index) for index in range(count)])
        if len(problem.history) < self._warmup:
            actions = problem.rng.random((count, walk.steps), dtype=np.float32)
        else:
            actions = walk.act(self.agent, told, self._noise(count), problem.rng)
        self.proposed = [
            (walk.allocation(row, target, self._settings.trim), target)
            for row, target in zip(actions, told.tolist(), strict=True)
        ]

    def _noise(self, count: int) -> Floats:
        """Return the noise of each actor; one of the last ones has none, if all before were new."""
        settings, episodes = self._settings, self.episodes
        fall = (settings.sigma_end / settings.sigma) ** episodes.progress(self._warmup)
        spread = np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(1)
        noise: Floats = (settings.sigma * fall * episodes.widening * 2.0**spread).astype(np.float32)
        if count == self._problem.remaining and not episodes.repeats:
            noise[0] = 0.0
        return noise

    def learn(self) -> None:
        """Measure what is proposed, remember what was new, and update the networks."""
        ends = self.episodes.measure([allocation for allocation, _ in self.proposed])
        remembered = 0
        for (allocation, told), (reward, is_new) in zip(self.proposed, ends, strict=True):
            if is_new and math.isfinite(reward):
                states, actions = self._walk.taken(allocation, told)
                self._memory.add(Transitions.of_episode(states, actions, reward))
                remembered += len(actions)
        self.proposed = []
        if len(self._problem.history) >= self._warmup:
            for _ in range(round(self._settings.updates * remembered)):
                self.agent.update(self._memory.at(self._memory.draw(_BATCH, self._problem.rng)))

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on; `restore` is the inverse."""
        return {
            **{f"agent.{name}": value for name, value in self.agent.state().items()},
            **{f"memory.{name}": value for name, value in self._memory.state().items()},
            "episodes": self.episodes.state(),
            "proposed": [[allocation.to_dict(), told] for allocation, told in self.proposed],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the run whose `state` this was."""
        self.agent.restore(under("agent.", state))
        self._memory.restore(under("memory.", state))
        self.episodes.restore(state["episodes"])
        self.proposed = [
            (BitAllocation.from_dict(allocation), told) for allocation, told in state["proposed"]
        ]


class Walk:
    """The way through the layers: what an actor is told, and what its actions come to.

    States are made anew for every episode. They have the ten numbers of [HAQ19, section 3.2]: the
    eight of `layer_features`, the width chosen before (1 at the start, relative to the widest
    there is), and 1 for weights or 0 for an activation. Without limits there is an eleventh, the
    target of the episode.

    Operands without a choice are no steps; of tied operands, the first stands for all.

    Args:
        problem: Its space, its limits and its prices.

    Attributes:
        steps: Choices in an episode.
        features: Numbers in a state.

    Raises:
        InfeasibleError: If the limits cannot be met together.
    """

    def __init__(self, problem: Problem) -> None:
        self._space = problem.space
        free = [variable for variable in self._space.variables if len(variable.choices) > 1]
        self._decisions = sorted(free, key=_turn)
        self.steps = len(self._decisions)
        pricing, limits = problem.pricing, problem.budget.limits
        self._limits = {
            name: (pricing.layer_costs(name), pricing.sum_limit(name, limit))
            for name, limit in limits.items()
        }
        self._compared = problem.cost_name, problem.layer_costs(problem.cost_name)
        slots = [variable.slots[0] for variable in self._decisions]
        fixed = layer_features(self._space.layers)[[slot.layer for slot in slots]]
        is_weight = np.array([[slot.operand == "weight"] for slot in slots], dtype=np.float32)
        self._choices = np.array([len(v.choices) for v in self._decisions], dtype=np.int64)
        self._widest = max((v.choices[-1] for v in self._decisions), default=1)
        blank = np.ones((self.steps, 1), dtype=np.float32)
        columns = [fixed, blank, is_weight.reshape(-1, 1), *([] if self._limits else [blank])]
        self._states = np.concatenate(columns, axis=1)
        self.features = self._states.shape[1]
        compared = self._compared[1]
        self._cheapest = widths_of(
            cheapest_within(self._space, pricing, limits)
            if limits
            else self._space.minimum(compared)[1]
        )

    def target(self, episode: int) -> float:
        """Return the target of an episode, from 0 (cheapest) to 1; 0 where there are limits.

        Multiples of the golden ratio, without their whole parts: any number of them is spread
        evenly.
        """
        return 0.0 if self._limits else (0.5 + episode * _GOLDEN) % 1.0

    def act(
        self, agent: "Agent", told: npt.NDArray[np.float64], noise: Floats, rng: np.random.Generator
    ) -> Floats:
        """Return the actions of several episodes, ``n x steps``.

        Args:
            agent: Who acts.
            told: Target of each episode.
            noise: Noise of each.
            rng: Draws it.
        """
        from .ddpg import truncated_normal

        actions = np.empty((len(told), self.steps), dtype=np.float32)
        previous = np.ones(len(told), dtype=np.float32)
        for step, variable in enumerate(self._decisions):
            state = np.repeat(self._states[step : step + 1], len(told), axis=0)
            state[:, _PREVIOUS] = previous
            if not self._limits:
                state[:, -1] = told
            actions[:, step] = truncated_normal(agent.act(state), noise, rng)
            widths = np.array(variable.choices)[_ranks(actions[:, step], len(variable.choices))]
            previous = (widths / self._widest).astype(np.float32)
        return actions

    def allocation(self, actions: Floats, told: float, trim: Trim) -> BitAllocation:
        """Return what the actions of an episode come to, within the limits or its target.

        Args:
            actions: ``steps`` numbers in [0, 1]; each width has an equal share of them.
            told: The episode's target.
            trim: How the limits are enforced.
        """
        bounds = self._bounds(told)
        if trim == "loop":
            with suppress(InfeasibleError):  # forbidden pairs may be in its way
                return budget_loop(self._space, bounds, self._wanted(actions))
        return allocation_of(
            self._space, level(self._space, self._cheapest, self._decisions, actions, bounds)
        )

    def _wanted(self, actions: Floats) -> BitAllocation:
        """Return what actions come to where nothing is limited."""
        widths = widest(self._space)
        ranks = _ranks(actions, self._choices)
        for variable, rank in zip(self._decisions, ranks, strict=True):
            widths = set_width(widths, variable, variable.choices[rank])
        return self._space.project(allocation_of(self._space, widths))

    def taken(self, allocation: BitAllocation, told: float) -> tuple[Floats, Floats]:
        """Return the states and actions of an episode that ends at an allocation.

        They are those of the widths it has in the end, whatever the actor had proposed: what is
        remembered is what was done.

        Args:
            allocation: Where it ends.
            told: Its target.

        Returns:
            ``steps x features`` states and ``steps`` actions, each in the middle of its share.
        """
        widths = widths_of(allocation)
        bits = np.array([width_of(widths, variable) for variable in self._decisions])
        states = self._states.copy()
        states[1:, _PREVIOUS] = bits[:-1] / self._widest
        if not self._limits:
            states[:, -1] = told
        ranks = [v.choices.index(b) for v, b in zip(self._decisions, bits.tolist(), strict=True)]
        return states, ((np.array(ranks) + 0.5) / self._choices).astype(np.float32)

    def _bounds(self, told: float) -> Limits:
        """Return the limits, or in their place the target of an episode."""
        if self._limits:
            return self._limits
        name, costs = self._compared
        low = self._space.minimum(costs)[0]
        highest = [
            np.nanmax(
                costs[i][np.ix_(self._space.weight_choices(i), self._space.activation_choices(i))]
            )
            for i in range(len(self._space.layers))
        ]
        return {name: (costs, low + told * (float(np.sum(highest)) - low))}


def level(
    space: BitSpace,
    cheapest: Widths,
    decisions: Sequence[Variable],
    actions: Floats,
    bounds: Limits,
) -> Widths:
    """Return the widths of actions that are moved up or down alike until they use the budget.

    From the cheapest widths up: of all next wider choices, the one comes first whose share of
    [0, 1] begins the least above its action (or the farthest below); what is too dear is passed
    over. So the actions say who is to have more than whom, and the budget how much there is.

    Args:
        space: A space per layer; its forbidden pairs hold.
        cheapest: Widths within the bounds.
        decisions: What is chosen.
        actions: A number in [0, 1] for each.
        bounds: What may not be exceeded.
    """
    order = sorted(
        (rank / len(variable.choices) - action, number, rank)
        for number, (variable, action) in enumerate(zip(decisions, actions.tolist(), strict=True))
        for rank in range(1, len(variable.choices))
    )
    widths = cheapest
    ranks = [variable.choices.index(width_of(widths, variable)) for variable in decisions]
    stuck = False
    while not stuck:  # a pair that is forbidden now may be allowed once the other is wider
        stuck = True
        for _, number, rank in order:
            if ranks[number] != rank - 1:
                continue
            variable = decisions[number]
            wider = with_width(space, widths, variable, variable.choices[rank])
            if wider is not None and _fits(wider, bounds):
                widths, ranks[number], stuck = wider, rank, False
    return widths


def _fits(widths: Widths, bounds: Limits) -> bool:
    return all(is_within(cost_of(costs, widths), limit) for costs, limit in bounds.values())


def _ranks(actions: Floats, choices: Any) -> npt.NDArray[np.int64]:
    """Return which choice each action is: every one has an equal share of [0, 1]."""
    ranks: npt.NDArray[np.int64] = np.minimum((actions * choices).astype(np.int64), choices - 1)
    return ranks


def _turn(variable: Variable) -> tuple[int, int]:
    slot = variable.slots[0]
    return slot.layer, OPERANDS.index(slot.operand)
