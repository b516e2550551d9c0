"""An agent that learns a continuous action in [0, 1]: deep deterministic policy gradient.

[DDPG16] Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver, Wierstra. Continuous control with
deep reinforcement learning. ICLR 2016. Sizes, rates, noise and reward baseline as in [HAQ19].
"""

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..models.threads import fixed_threads
from .replay import Floats, Transitions

_HIDDEN = 300
"""Units of both hidden layers of both networks."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How an agent learns.

    Attributes:
        actor_lr: Learning rate of the actor.
        critic_lr: Learning rate of the critic.
        actor_every: The actor learns in one of so many updates, the critic in each.
        tau: How far the target networks follow in an update.
        gamma: Discount of later rewards.
        baseline_rate: How fast the mean reward follows, that is subtracted from rewards.
    """

    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    actor_every: int = 1
    tau: float = 0.01
    gamma: float = 1.0
    baseline_rate: float = 0.5


def truncated_normal(mean: Floats, sigma: float | Floats, rng: np.random.Generator) -> Floats:
    """Draw from normal laws cut off at 0 and 1, by inversion.

    Args:
        mean: Means of the laws before they are cut, in [0, 1]; any shape.
        sigma: Standard deviations before they are cut; where one is 0 the mean is returned.
        rng: Source of randomness.
    """
    spread = np.maximum(sigma, 1e-9)
    low, high = ndtr(-mean / spread), ndtr((1 - mean) / spread)
    drawn = mean + spread * ndtri(low + rng.random(mean.shape) * (high - low))
    clipped: Floats = np.clip(np.where(np.asarray(sigma) > 0, drawn, mean), 0, 1)
    return clipped.astype(np.float32)


class Agent:
    """An actor that proposes actions, and a critic from which it learns which are good.

    The same calls in the same order give the same agent, bit for bit on the same machine: it has
    no randomness but its first weights, and computes on one thread.

    Args:
        features: Numbers that describe a state.
        rng: Draws the first weights, from PyTorch's usual law.
        config: How it learns.
    """

    def __init__(
        self, features: int, rng: np.random.Generator, config: AgentConfig | None = None
    ) -> None:
        self.config = config or AgentConfig()
        self._actor = _network(features, rng, nn.Sigmoid())
        self._critic = _network(features + 1, rng)
        self._actor_target = copy.deepcopy(self._actor)
        self._critic_target = copy.deepcopy(self._critic)
        self._actor_optimizer = _adam(self._actor, self.config.actor_lr)
        self._critic_optimizer = _adam(self._critic, self.config.critic_lr)
        self._baseline = math.nan
        self._updates = 0

    def act(self, states: Floats) -> Floats:
        """Return the actor's action in each state.

        Args:
            states: ``n x S``.
        """
        with fixed_threads(1), torch.inference_mode():
            actions: Floats = self._actor(torch.from_numpy(states)).squeeze(1).numpy()
        return actions

    def update(self, batch: Transitions) -> None:
        """Take a step of both networks towards what a batch of transitions teaches."""
        states, actions, rewards, following = map(
            torch.from_numpy, (batch.states, batch.actions, batch.rewards, batch.next_states)
        )
        with fixed_threads(1):
            wanted = self._returns(rewards, following, torch.from_numpy(batch.ends))
            self._critic_optimizer.zero_grad()
            error = mse_loss(self._value(self._critic, states, actions), wanted)
            error.backward()  # type: ignore[no-untyped-call]
            self._critic_optimizer.step()
            self._updates += 1
            if self._updates % self.config.actor_every == 0:
                self._improve(states)
            if self.config.gamma > 0:
                self._follow(self._actor_target, self._actor)
                self._follow(self._critic_target, self._critic)

    def _improve(self, states: Tensor) -> None:
        """Let the actor learn from the critic."""
        self._actor_optimizer.zero_grad()
        self._critic.requires_grad_(False)  # what this would teach it is of no use
        value = self._value(self._critic, states, self._actor(states).squeeze(1)).mean()
        (-value).backward()  # type: ignore[no-untyped-call]
        self._critic.requires_grad_(True)
        self._actor_optimizer.step()

    @torch.no_grad()
    def _returns(self, rewards: Tensor, following: Tensor, ends: Tensor) -> Tensor:
        """Return what the critic should have said: rewards above their mean, now and later."""
        mean = float(rewards.mean())
        if math.isnan(self._baseline):
            self._baseline = mean
        self._baseline += self.config.baseline_rate * (mean - self._baseline)
        if self.config.gamma == 0:
            return rewards - self._baseline
        action = self._actor_target(following).squeeze(1)
        later = self._value(self._critic_target, following, action)
        return rewards - self._baseline + self.config.gamma * ~ends * later

    def _value(self, critic: nn.Module, states: Tensor, actions: Tensor) -> Tensor:
        value: Tensor = critic(torch.cat([states, actions[:, None]], dim=1)).squeeze(1)
        return value

    @torch.no_grad()
    def _follow(self, target: nn.Module, network: nn.Module) -> None:
        weights = [p.detach() for p in network.parameters()]
        torch._foreach_lerp_([*target.parameters()], weights, self.config.tau)

    @property
    def digest(self) -> str:
        """A hexadecimal name of the actor's weights: agents with the same one act alike."""
        digest = hashlib.sha256()
        for parameter in self._actor.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        return digest.hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """Return all it has learned, arrays and plain values by name; `restore` is the inverse."""
        arrays = {name: tensor.numpy().copy() for name, tensor in self._tensors().items()}
        baseline = None if math.isnan(self._baseline) else self._baseline
        return {"baseline": baseline, "updates": self._updates, **arrays}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the agent whose `state` this was, of as many features and the same config."""
        self._baseline = math.nan if state["baseline"] is None else state["baseline"]
        self._updates = state["updates"]
        for name, tensor in self._tensors().items():
            tensor.copy_(torch.from_numpy(state[name]))

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors that updates change, by name."""
        networks = {
            "actor": self._actor,
            "critic": self._critic,
            "actor_target": self._actor_target,
            "critic_target": self._critic_target,
        }
        found = {
            f"{name}.{key}": tensor
            for name, network in networks.items()
            for key, tensor in network.state_dict().items()
        }
        for name, optimizer in (
            ("actor", self._actor_optimizer),
            ("critic", self._critic_optimizer),
        ):
            for index, moments in enumerate(optimizer.state.values()):
                found.update({f"{name}.adam.{index}.{key}": moments[key] for key in moments})
        return found


def _network(inputs: int, rng: np.random.Generator, *last: nn.Module) -> nn.Sequential:
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    layers: list[nn.Module] = []
    for size, width in ((inputs, _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, 1)):
        linear = nn.utils.skip_init(nn.Linear, size, width)  # type: ignore[no-untyped-call]
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1], *last)


def _adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    """Return an optimizer whose moments are there before its first step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
