"""AutoQ: one agent sets a goal for every layer, another gives every kernel its width.

[AQ20] Lou, Guo, Kim, Liu, Jiang. AutoQ: Automated Kernel-Wise Neural Network Quantization. ICLR
2020. [HIRO18] Nachum, Gu, Lee, Levine. Data-Efficient Hierarchical Reinforcement Learning. NeurIPS
2018. [GSDE21] Raffin, Kober, Stulp. Smooth Exploration for Robotic Reinforcement Learning. CoRL
2021.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..spaces import KNOWN_WIDTHS, BitAllocation, InfeasibleError, Measurement, StudyError
from ..spaces.slots import OPERANDS
from .additive_search import cheapest_within
from .base import Searcher
from .channel_budget import ChannelBudget, Ranks
from .episodes import Episodes, Reward, quality
from .kernel_features import halvings_above_mean, kernel_features
from .layer_features import layer_features
from .problem import Problem
from .registry import register
from .replay import Floats, Transitions, under

if TYPE_CHECKING:  # torch stays out until there is something to learn
    from .ddpg import Agent

Trim = Literal["level", "loop"]
"""How an episode is made to respect the limits: all actions down alike, or layer by layer."""

_BATCH = 64

_CANDIDATES = 8
"""Goals that relabelling tries beside the one that was set and the one that was reached."""

_GOAL_SPREAD = 0.1
"""Standard deviation of these around the one that was reached."""

_UPDATES_PER_GOAL = 4
"""Updates for each goal that is relabelled, which takes a few times as long as an update."""

_UNIT = {"accuracy": 10.0, "loss": 1.0}
"""What a factor of e in accuracy or loss is worth, about, as a reward."""

_PREVIOUS = -1
"""Column of a goal agent's state that holds what was done before; of a kernel agent's, the goal."""


@register("autoq")
@dataclass(frozen=True, kw_only=True)
class AutoQ(Searcher):
    """A goal agent walks through the layers, a kernel agent follows it kernel by kernel [AQ20].

    An episode is one allocation. For the weights of each layer the goal agent says how wide they
    should be on average, and the kernel agent by how much each output channel differs from that;
    for an activation the goal is its width. What is too dear is lowered until it fits. What was
    then measured is the reward of both agents; the kernel agent is also rewarded for meeting goals.

    Actions are in [0, 1], equal shares of which are the choices of an operand.

    Attributes:
        reward: What an episode is worth: ``loss``, the fall of the log of the loss below that of
            the float network, or ``accuracy``, a tenth of the points above it.
        objective: ``constrained`` is the reward alone, and the limits bound the costs.
            ``guaranteed`` is twice the reward less half the logarithm of each compared cost; it
            is what counts where the budget has no limits.
        trim: ``level`` moves all actions up or down alike until they use the budget; ``loop``
            lowers them from the last layer to the first until they fit [HAQ19].
        exploration: Noise of the kernel agent: ``features`` varies with the features of kernels
            [GSDE21], ``independent`` is drawn for each kernel.
        opposite: Whether every second episode repeats the goals of the one before with the
            opposite noise of the kernel agent, which is then rewarded for the difference.
        statistics: Whether the kernel agent is told of the weights, where there is a network.
        prior: Bits by which a kernel is at first given more than one whose largest weight is half
            as large: 1 is what rounding noise asks for, 0 begins at the goal. It takes a network,
            and ``statistics``.
        relabel: Whether replayed goals are those that explain best what the kernel agent did.
        actors: Episodes that are measured at a time.
        warmup: First episodes, with random goals; at most a third of all.
        sigma: Standard deviation of the noise of goals in the beginning, in choices.
        kernel_sigma: The same of kernels.
        decay: Share of both that is left in the end.
        zeta: Weight of the episode's reward for the kernel agent in the beginning; the rest is
            that of meeting goals.
        zeta_end: The same in the end.
        updates: Updates of the goal agent's critic for every new decision, and of the kernel
            agent's for every new decision about kernels.
        actor_every: The actors learn in one of so many updates, the critics in each.
        gamma: Discount; 0 gives every step the reward of its episode and nothing else.
        goal_lr: Learning rate of the goal agent's actor.
        kernel_lr: Learning rate of the kernel agent's actor.
        critic_lr: Learning rate of both critics.
        tau: How far target networks follow in an update.
        baseline_rate: How fast the mean reward follows, that is subtracted from rewards.
    """

    summary: ClassVar[str] = (
        "Two DDPG agents: goals layer by layer, and widths kernel by kernel that follow them."
    )
    paper: ClassVar[str] = "Lou et al., AutoQ, ICLR 2020"
    granularities: ClassVar[frozenset[str]] = frozenset({"layer", "channel"})

    reward: Reward = "loss"
    objective: Literal["constrained", "guaranteed"] = "constrained"
    trim: Trim = "level"
    exploration: Literal["features", "independent"] = "features"
    opposite: bool = True
    statistics: bool = True
    prior: float = 1.0
    relabel: bool = True
    actors: int = 2
    warmup: int = 0
    sigma: float = 0.7
    kernel_sigma: float = 0.2
    decay: float = 0.5
    zeta: float = 0.1
    zeta_end: float = 0.8
    updates: float = 0.75
    actor_every: int = 2
    gamma: float = 0.0
    goal_lr: float = 1e-3
    kernel_lr: float = 1e-3
    critic_lr: float = 1e-3
    tau: float = 0.01
    baseline_rate: float = 0.5

    def __post_init__(self) -> None:
        if min(self.actors, self.actor_every) < 1 or self.warmup < 0:
            raise StudyError("autoq needs actors and actor_every >= 1, and warmup >= 0")
        for name in ("zeta", "zeta_end", "gamma", "tau", "decay", "baseline_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise StudyError(f"autoq: {name} must be in [0, 1], got {getattr(self, name)!r}")
        for name in (
            *("sigma", "kernel_sigma", "prior", "updates"),
            *("goal_lr", "kernel_lr", "critic_lr"),
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise StudyError(f"autoq: {name} must be 0 or more, got {getattr(self, name)!r}")

    def search(self, problem: Problem) -> None:
        """Spend the budget on episodes, and learn from each."""
        walk = Walk(problem, self.statistics, self.prior)
        if not walk.units:  # everything is pinned
            Episodes(problem, quality(self.reward, problem.baseline)).measure(
                [problem.space.uniform(KNOWN_WIDTHS[-1])]
            )
            return
        learner = Learner(self, walk, problem)
        if problem.saved is not None:
            learner.restore(problem.saved)
        while not learner.episodes.is_over:
            if not learner.pending:
                learner.roll_out()
            problem.save(learner.state())  # what takes time comes now: in the middle of episodes
            learner.learn(learner.measure())
        problem.findings["policy"] = learner.policy


class Walk:
    """The decisions of a space in order, and what agents are told of each.

    A *unit* has a width of its own: a kernel where weights are decided, else all slots of a
    decision together. In a space per layer every decision has one unit.

    Args:
        problem: Its space, its limits, and its network if it has one.
        statistics: Whether the network's weights are looked at.
        prior: Bits for each halving of a kernel's largest weight.

    Attributes:
        variables: For each decision its index among the variables of the space.
        parts: For each decision its units.
        is_kernelwise: For each decision whether it is about weights, so that it has a goal.
        counts: Choices of each unit.
        decision: Which decision each unit belongs to.
        goal_states: ``T x S`` state of the goal agent, but for the previous action.
        kernel_states: ``units x S`` state of the kernel agent, but for the goal.
        directions: ``units x F`` features along which noise varies over the kernels of a decision.
        prior: ``units``; how far above the goal each unit begins, on average over a layer 0.
        cheapest: The rank of each unit in a cheap allocation within the limits.
    """

    def __init__(self, problem: Problem, statistics: bool, prior: float) -> None:
        self._space = space = problem.space
        self._has_limits = bool(problem.budget.limits)
        self._budget = ChannelBudget(space, problem.pricing, problem.budget.limits)
        slots = {v: variable.slots[0] for v, variable in enumerate(space.variables)}
        free = [v for v, variable in enumerate(space.variables) if len(variable.choices) > 1]
        self.variables = sorted(
            free, key=lambda v: (slots[v].layer, OPERANDS.index(slots[v].operand))
        )
        chosen = [space.variables[v] for v in self.variables]
        self.is_kernelwise = np.array(
            [all(slot.operand == "weight" for slot in variable.slots) for variable in chosen]
        )
        sizes = [
            variable.channels if kernelwise else 1
            for variable, kernelwise in zip(chosen, self.is_kernelwise, strict=True)
        ]
        ends = np.cumsum([0, *sizes])
        self.parts = [slice(start, end) for start, end in pairwise(ends.tolist())]
        self.units = int(ends[-1])
        self.counts = np.repeat([len(variable.choices) for variable in chosen], sizes)
        self.decision = np.repeat(np.arange(len(chosen)), sizes)
        limits = problem.budget.limits
        self._start = self._budget.ranks(
            cheapest_within(space, problem.pricing, limits)
            if limits
            else space.uniform(KNOWN_WIDTHS[0])
        )
        self.cheapest = self.units_of(self._start)
        if not self.units:
            return
        layers = [slots[v].layer for v in self.variables]
        of_layers = layer_features(space.layers)[layers]
        is_weight = [slots[v].operand == "weight" for v in self.variables]
        self.goal_states = _columns(of_layers, is_weight, np.ones(len(layers)))
        model = problem.shared_model if problem.has_model and statistics else None
        features = [
            kernel_features(space.layers[layer], size, model)
            for layer, size in zip(layers, sizes, strict=True)
        ]
        self.kernel_states = _columns(
            np.repeat(of_layers, sizes, axis=0), np.concatenate(features), np.zeros(self.units)
        )
        self.directions = np.concatenate([_standardised(rows) for rows in features])
        halvings = np.concatenate([halvings_above_mean(rows) for rows in features])
        spans = [variable.choices[-1] - variable.choices[0] for variable in chosen]
        bits = np.repeat(spans, sizes) / (self.counts - 1)  # of a choice, on average
        self.prior = (prior * halvings / bits / self.counts).astype(np.float32)

    def units_of(self, ranks: Ranks) -> npt.NDArray[np.int64]:
        """Return the rank of each unit."""
        parts = zip(self.variables, self.parts, strict=True)
        found = [np.broadcast_to(ranks[v], part.stop - part.start) for v, part in parts]
        return np.concatenate([np.empty(0, np.int64), *found])

    def means(self, values: npt.NDArray[Any]) -> Floats:
        """Return the mean of each decision over its units, ``... x units`` to ``... x T``."""
        starts = [part.start for part in self.parts]
        sums = np.add.reduceat(values, starts, axis=-1)
        found: Floats = (sums / np.bincount(self.decision)).astype(np.float32)
        return found

    def chosen(self, actions: Floats) -> npt.NDArray[np.int64]:
        """Return the rank that each unit's action stands for, be it too dear or not."""
        ranks: npt.NDArray[np.int64]
        ranks = np.minimum((actions * self.counts).astype(np.int64), self.counts - 1)
        return ranks

    def actions_of(self, ranks: npt.NDArray[np.integer]) -> Floats:
        """Return the action in the middle of each unit's choice; `chosen` is the inverse."""
        actions: Floats = ((ranks + 0.5) / self.counts).astype(np.float32)
        return actions

    def allocation(self, ranks: npt.NDArray[np.integer]) -> BitAllocation:
        """Return the allocation in which units have these ranks."""
        return self._budget.allocation(self._state(ranks))

    def loop(self, actions: Floats) -> npt.NDArray[np.int64]:
        """Return ranks within the limits: those of the actions, then down from the last layer.

        Where that way does not lead to the limits, it is that of `level`.
        """
        wanted = self.chosen(actions)
        above = actions * self.counts - wanted
        preferences = [np.zeros(len(ranks)) for ranks in self._start]
        for v, part in zip(self.variables, self.parts, strict=True):
            preferences[v] = above[part]
        try:
            return self.units_of(self._budget.within(self._state(wanted), preferences))
        except InfeasibleError:  # forbidden pairs may be in its way
            return self.level(actions)

    def level(self, actions: Floats) -> npt.NDArray[np.int64]:
        """Return ranks within the limits: those of the actions moved up or down alike.

        They move up until nothing more fits; where there are no limits they stay. Units whose
        actions are equal move in order.
        """
        if not self._has_limits:
            return self.units_of(self._state(self.chosen(actions)))
        rank = np.arange(1, self.counts.max())
        unit, _ = exists = np.nonzero(rank < self.counts[:, None])
        shift = (rank / self.counts[:, None] - actions[:, None])[exists]
        unit = unit[np.argsort(shift, kind="stable")]  # a unit for each rank it may rise by
        raised = self._most(np.zeros(self.units, np.int64), unit)
        rest = unit[int(raised.sum()) :]
        for step in dict.fromkeys(self.decision[rest].tolist()):
            raised = self._most(raised, rest[self.decision[rest] == step])
        while raised.any() and not self._budget.allows(self._state(raised)):
            raised[unit[raised[unit] > 0][-1]] -= 1  # kernels do not quite add up
        return self.units_of(self._state(raised))

    def _most(
        self, ranks: npt.NDArray[np.int64], unit: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return ranks with as many units of a list, from its start, one higher as fit."""

        def raised(count: int) -> npt.NDArray[np.int64]:
            return ranks + np.bincount(unit[:count], minlength=self.units)

        if not self._budget.fits(self._state(raised(1))):  # mostly so, once a budget is used up
            return ranks
        low, high = 1, len(unit)
        while low < high:
            middle = (low + high + 1) // 2
            if self._budget.fits(self._state(raised(middle))):
                low = middle
            else:
                high = middle - 1
        return raised(low)

    def _state(self, ranks: npt.NDArray[np.integer]) -> Ranks:
        """Return the state in which units have at least these ranks, but for forbidden pairs."""
        floor = np.maximum(ranks, self.cheapest)
        state = self._start
        for _ in range(3):  # what one operand forbids may be free once the other is wider
            for v, part in zip(self.variables, self.parts, strict=True):
                state = self._budget.replaced(state, v, floor[part].astype(np.int64))
            if not self._space.forbid:
                break
        return state


class Replay:
    """What is remembered: goals, executed ranks and reward of every episode.

    Transitions are made of these when they are replayed, so that the weight of meeting goals can
    change, and what is kept is small.

    Args:
        walk: The decisions.

    Attributes:
        goals: ``n x T``; the executed goals: as far off the one that was set as the budget moved
            the layer.
        replayed: ``n x T``; what stands for them in replay.
        ranks: ``n x units``; executed.
        rewards: ``n``; NaN while they are not known, and where there is none.
        gains: ``n``; how much more than the mean of itself and its opposite an episode was worth;
            NaN where it has none.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.goals = np.zeros((0, len(walk.parts)), np.float32)
        self.replayed = self.goals.copy()
        self.ranks = np.zeros((0, walk.units), np.uint8)
        self.rewards = np.zeros(0)
        self.gains = np.zeros(0)

    def __len__(self) -> int:
        return len(self.rewards)

    def add(self, goals: Floats, actions: Floats, ranks: npt.NDArray[np.integer]) -> None:
        """Keep an episode whose reward is not known yet.

        Args:
            goals: ``T``; what the goal agent did.
            actions: ``units``; what both agents did.
            ranks: ``units``; what was executed.
        """
        walk = self._walk
        moved = walk.means(walk.actions_of(ranks) - walk.actions_of(walk.chosen(actions)))
        executed = np.clip(goals + moved, 0, 1)
        executed = np.where(walk.is_kernelwise, executed, walk.means(walk.actions_of(ranks)))
        self.goals = np.vstack([self.goals, executed.astype(np.float32)])
        self.replayed = np.vstack([self.replayed, self.goals[-1]])
        self.ranks = np.vstack([self.ranks, ranks.astype(np.uint8)])
        self.rewards = np.append(self.rewards, math.nan)
        self.gains = np.append(self.gains, math.nan)

    @property
    def known(self) -> npt.NDArray[np.int64]:
        """The episodes that have a reward."""
        return np.flatnonzero(np.isfinite(self.rewards))

    def goal_steps(self, rng: np.random.Generator) -> Transitions:
        """Draw steps of the goal agent."""
        episode = rng.choice(self.known, size=_BATCH)
        step = rng.integers(len(self._walk.parts), size=_BATCH)
        ends = step == len(self._walk.parts) - 1
        return Transitions(
            self._goal_states(episode, step),
            self.replayed[episode, step],
            _scaled(self.rewards - self.rewards[self.known].mean())[episode],
            self._goal_states(episode, np.where(ends, step, step + 1)),
            ends,
        )

    def _goal_states(self, episode: npt.NDArray[np.int64], step: npt.NDArray[np.int64]) -> Floats:
        states = self._walk.goal_states[step]
        before = self._walk.means(self._walk.actions_of(self.ranks[episode]))
        states[:, _PREVIOUS] = np.where(step > 0, before[np.arange(len(step)), step - 1], 1)
        return states

    def kernel_steps(self, zeta: float, rng: np.random.Generator) -> Transitions:
        """Draw steps of the kernel agent.

        Args:
            zeta: Weight of the episode's reward; the rest is that of meeting the goal.
            rng: Source of randomness.
        """
        walk = self._walk
        episode = rng.choice(self.known, size=_BATCH)
        unit = rng.choice(np.flatnonzero(walk.is_kernelwise[walk.decision]), size=_BATCH)
        step = walk.decision[unit]
        after = np.minimum(unit + 1, walk.units - 1)
        ends = (walk.decision[after] != step) | (after == unit)
        goal = self.goals[episode, step]
        actions = walk.actions_of(self.ranks[episode])
        reached = walk.means(actions)[np.arange(_BATCH), step]
        intrinsic = -walk.counts[unit] * np.abs(goal - reached)
        return Transitions(
            _with_goal(walk.kernel_states[unit], goal),
            _difference(actions[np.arange(_BATCH), unit], goal + walk.prior[unit]),
            ((1 - zeta) * intrinsic + zeta * self._extrinsic()[episode]).astype(np.float32),
            _with_goal(walk.kernel_states[np.where(ends, unit, after)], goal),
            ends,
        )

    def _extrinsic(self) -> Floats:
        """Return what each episode was worth to the kernel agent, over its standard deviation.

        That is its gain over its opposite, or over the mean of all where it has none.
        """
        above_mean = self.rewards - self.rewards[self.known].mean()
        return _scaled(np.where(np.isnan(self.gains), above_mean, self.gains))

    def relabel(self, agent: "Agent", count: int, rng: np.random.Generator) -> None:
        """Put goals in replay under which the kernel agent, as it is now, would do what was done.

        The goals of some layers of some episodes are tried: the one that was executed, the one
        that was reached, and others around that [HIRO18, section 3.3].

        Args:
            agent: The kernel agent.
            count: How many goals are looked at.
            rng: Source of randomness.
        """
        walk = self._walk
        steps = rng.choice(np.flatnonzero(walk.is_kernelwise), size=count)
        for episode, step in zip(rng.choice(self.known, size=count), steps, strict=True):
            actions = walk.actions_of(self.ranks[episode])[walk.parts[step]]
            around = actions.mean() + _GOAL_SPREAD * rng.standard_normal(_CANDIDATES)
            goals = np.array([self.goals[episode, step], actions.mean(), *np.clip(around, 0, 1)])
            self.replayed[episode, step] = likeliest_goal(
                agent,
                walk.kernel_states[walk.parts[step]],
                actions - walk.prior[walk.parts[step]],
                goals.astype(np.float32),
            )


class Learner:
    """Both agents and what they remember, in the middle of a search.

    Args:
        settings: How it learns.
        walk: The decisions.
        problem: What it acts on.

    Attributes:
        pending: How many of the last episodes have not been measured.
    """

    def __init__(self, settings: AutoQ, walk: Walk, problem: Problem) -> None:
        from .ddpg import Agent, AgentConfig

        self._settings, self._walk, self._problem = settings, walk, problem
        shared = {
            name: getattr(settings, name)
            for name in ("critic_lr", "tau", "gamma", "baseline_rate", "actor_every")
        }
        # First weights have generators of their own: a run that goes on has others by then.
        goal_rng, kernel_rng = problem.rng.spawn(2)
        config = AgentConfig(actor_lr=settings.goal_lr, **shared)
        self._goal_agent = Agent(walk.goal_states.shape[1], goal_rng, config)
        config = AgentConfig(actor_lr=settings.kernel_lr, **shared)
        self._kernel_agent = Agent(walk.kernel_states.shape[1], kernel_rng, config)
        self._replay = Replay(walk)
        self._warmup = min(settings.warmup, problem.budget.evaluations // 3)
        self._quality = quality(settings.reward, problem.baseline)
        self.episodes = Episodes(problem, self._reward)
        self.pending = 0

    @property
    def policy(self) -> str:
        """A name of what both agents would do."""
        return f"{self._goal_agent.digest}-{self._kernel_agent.digest}"

    @property
    def _progress(self) -> float:
        return self.episodes.progress(self._warmup)

    @property
    def _noise(self) -> float:
        """What is left of the noise; more again while nothing new is found."""
        return float(self._settings.decay**self._progress * self.episodes.widening)

    def roll_out(self) -> None:
        """Walk through the layers, once for each actor, and remember what was done."""
        goals: Floats | None = None
        noise = np.zeros(self._walk.units)
        for actor in range(min(self._settings.actors, self._problem.remaining)):
            if self._settings.opposite and actor % 2 == 1:
                noise = -noise
            else:
                goals, noise = None, self._kernel_noise()
            goals, actions = self._walked(goals, noise)
            trim = self._walk.level if self._settings.trim == "level" else self._walk.loop
            self._replay.add(goals, actions, trim(actions))
            self.pending += 1

    def _kernel_noise(self) -> npt.NDArray[np.float64]:
        """Draw how far kernels are off what the kernel agent says, half of it alike by layer."""
        walk, rng = self._walk, self._problem.rng
        sigma = self._settings.kernel_sigma * self._noise / walk.counts
        kernelwise = walk.is_kernelwise[walk.decision]
        if self._settings.exploration == "independent":
            return np.where(kernelwise, sigma * rng.standard_normal(walk.units), 0)
        width = walk.directions.shape[1]
        common = rng.standard_normal(width)
        own = rng.standard_normal((len(walk.parts), width))[walk.decision]
        slopes = (common + own) / math.sqrt(2 * width)
        return np.where(kernelwise, sigma * (walk.directions * slopes).sum(axis=1), 0)

    def _walked(
        self, goals: Floats | None, noise: npt.NDArray[np.float64]
    ) -> tuple[Floats, Floats]:
        """Return the goal of each decision and the action of each unit.

        Args:
            goals: Goals to repeat; None for the goal agent's.
            noise: What is added to the action of each unit.
        """
        from .ddpg import truncated_normal

        walk, rng = self._walk, self._problem.rng
        sigma = self._settings.sigma * self._noise
        is_random = len(self._replay) < self._warmup
        done = np.empty(len(walk.parts), np.float32)
        actions = np.empty(walk.units, np.float32)
        states = walk.goal_states.copy()
        for step, part in enumerate(walk.parts):
            if goals is not None:
                done[step] = goals[step]
            elif is_random:
                done[step] = rng.random()
            else:
                proposed = self._goal_agent.act(states[step : step + 1])
                done[step] = truncated_normal(proposed, sigma / walk.counts[part.start], rng)[0]
            actions[part] = done[step]
            if walk.is_kernelwise[step]:
                told = _with_goal(walk.kernel_states[part], done[step])
                actions[part] += walk.prior[part] + self._kernel_agent.act(told) - 0.5 + noise[part]
            np.clip(actions[part], 0, 1, out=actions[part])
            if step + 1 < len(states):
                states[step + 1, _PREVIOUS] = actions[part].mean()
        return done, actions

    def measure(self) -> int:
        """Measure the pending episodes, remember what they were worth; return how many are new."""
        replay = self._replay
        rows = slice(len(replay) - self.pending, len(replay))
        allocations = [self._walk.allocation(ranks) for ranks in replay.ranks[rows]]
        worth = self.episodes.measure(allocations)
        replay.rewards[rows] = [reward for reward, _ in worth]
        self._compare(rows)
        self.pending = 0
        return sum(is_new for _, is_new in worth)

    def _reward(self, measurement: Measurement) -> float:
        """Return the reward of an episode by what is measured at its end."""
        problem, found = self._problem, self._quality(measurement)
        if self._settings.objective == "constrained" and problem.budget.limits:
            return found
        widest = problem.space.uniform(8)
        saved = sum(
            math.log(problem.price(widest, o.name) / problem.price(measurement.allocation, o.name))
            for o in problem.objectives
            if o.name not in ("accuracy", "loss")
        )
        return 2 * found + 0.5 * _UNIT[self._settings.reward] * saved

    def _compare(self, rows: slice) -> None:
        """Say what episodes were worth to the kernel agent, where they have an opposite."""
        rewards, gains = self._replay.rewards[rows], self._replay.gains[rows]
        for start in range(0, len(rewards) - 1, 2) if self._settings.opposite else ():
            pair = slice(start, start + 2)
            gains[pair] = rewards[pair] - rewards[pair].mean()

    def learn(self, episodes: int) -> None:
        """Take steps of both agents, as many as so many new episodes are worth."""
        settings, walk, rng = self._settings, self._walk, self._problem.rng
        if not self._replay.known.size:
            return
        count = round(settings.updates * len(walk.parts) * episodes)
        zeta = settings.zeta + (settings.zeta_end - settings.zeta) * self._progress
        if settings.relabel and walk.is_kernelwise.any():
            self._replay.relabel(self._kernel_agent, count // _UPDATES_PER_GOAL, rng)
        for _ in range(count):
            self._goal_agent.update(self._replay.goal_steps(rng))
        for _ in range(round(count * float(walk.is_kernelwise.mean()))):
            self._kernel_agent.update(self._replay.kernel_steps(zeta, rng))

    def state(self) -> dict[str, Any]:
        """Return all that a search goes on with; `restore` is the inverse."""
        return {
            **{f"goal.{name}": value for name, value in self._goal_agent.state().items()},
            **{f"kernel.{name}": value for name, value in self._kernel_agent.state().items()},
            **{f"replay.{name}": getattr(self._replay, name) for name in _REMEMBERED},
            "episodes": self.episodes.state(),
            "pending": self.pending,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the learner whose `state` this was."""
        self._goal_agent.restore(under("goal.", state))
        self._kernel_agent.restore(under("kernel.", state))
        for name, value in under("replay.", state).items():
            setattr(self._replay, name, value)
        self.episodes.restore(state["episodes"])
        self.pending = state["pending"]


_REMEMBERED = ("goals", "replayed", "ranks", "rewards", "gains")


def likeliest_goal(agent: "Agent", states: Floats, actions: Floats, goals: Floats) -> float:
    """Return the goal under which a kernel agent would most likely have done what was done.

    Args:
        agent: The kernel agent.
        states: ``n x S``; of the kernels of a layer.
        actions: ``n``; what was done, less what was done without the agent.
        goals: Candidates; of equal ones the first wins.
    """
    told = np.concatenate([_with_goal(states, goal) for goal in goals])
    proposed = agent.act(told).reshape(len(goals), -1) - 0.5 + goals[:, None]
    return float(goals[((proposed - actions) ** 2).sum(axis=1).argmin()])


def _with_goal(states: Floats, goal: Any) -> Floats:
    told: Floats = states.copy()
    told[:, _PREVIOUS] = goal
    return told


def _difference(actions: Floats, goals: Floats) -> Floats:
    """Return what a kernel agent does to make these actions of these goals; 0.5 is the goal."""
    difference: Floats = np.clip(actions - goals + 0.5, 0, 1)
    return difference


def _scaled(values: npt.NDArray[np.float64]) -> Floats:
    """Return values over their standard deviation."""
    deviation = np.nanstd(values)
    scaled: Floats = (values / (deviation if deviation > 0 else 1)).astype(np.float32)
    return scaled


def _columns(*parts: Any) -> Floats:
    return np.column_stack(parts).astype(np.float32)


def _standardised(features: Floats) -> npt.NDArray[np.float64]:
    """Return features as differences from their mean over the kernels, of unit deviation."""
    deviation = features.std(axis=0, dtype=np.float64)
    centred = features - features.mean(axis=0, dtype=np.float64)
    found: npt.NDArray[np.float64] = centred / np.where(deviation > 1e-6, deviation, 1)
    return found
