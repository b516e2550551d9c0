"""Measuring networks that choose their widths while they run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..energy import input_energies, usage_energy
from ..models.dynamic.cascade import confidence, route
from ..models.dynamic.complexity import input_entropies
from ..models.dynamic.evaluate import Answers, answers
from ..models.dynamic.gates import ForcedGate, Gate
from ..models.dynamic.network import DynamicNetwork
from ..models.dynamic.operands import Slot, gated
from ..models.engine import Engine
from ..models.evaluate import Counts
from ..models.images import ImageSet
from ..models.quantized import QuantizedModel
from ..spaces import Ablation, BitAllocation, DynamicAllocation, Split
from .choices import cascade_usage, channel_usage, layer_choices, static_choices
from .workload import Workload

Floats = npt.NDArray[np.float64]

_KEPT = 12
"""Most passes of members of cascades that are kept: thresholds are tuned on the same ones."""


@dataclass(frozen=True)
class Setting:
    """What a network is measured on, and how.

    Attributes:
        model: What it runs on.
        engine: The engine of that, if it runs on one.
        device: Where the model is, where it does not.
        images: The split's images.
        limit: How many of them to take, from the first on.
        batch_size: Images per batch.
    """

    model: QuantizedModel
    engine: Engine | None
    device: str
    images: ImageSet
    limit: int
    batch_size: int

    def answers(
        self, allocation: BitAllocation, gates: Mapping[Slot, Gate] | None = None
    ) -> Answers:
        """Return the answers at an allocation, of which gates choose some widths anew."""
        with gated(self.model, gates or {}):
            run = self._runner(allocation)
            return answers(run, self.images, self.batch_size, self.limit, gates)

    def _runner(self, allocation: BitAllocation) -> Callable[[Tensor], Tensor]:
        if self.engine is not None:
            prepared = self.engine.prepare([allocation])
            return lambda x: prepared(x)[0]
        self.model.set_allocation(allocation)
        return lambda x: self.model(x.to(self.device))


class Choosing:
    """Measures dynamic networks, for one worker.

    Args:
        workload: What is measured.
    """

    def __init__(self, workload: Workload) -> None:
        self._energy = workload.energy
        self._entropies: dict[tuple[Split, int], npt.NDArray[np.float64]] = {}
        self._passes: dict[tuple[str, Split, int], Answers] = {}

    def count(self, network: DynamicNetwork, split: Split, setting: Setting) -> Counts:
        """Run a dynamic network over images.

        On the test split it is also measured with choices that do not follow the input.

        Args:
            network: What chooses.
            split: The split that the images are of.
            setting: What it is measured on.
        """
        complexity = self._complexity(split, setting)
        if network.dynamic.kind == "cascade":
            return self._cascade(network, split, setting, complexity)
        return self._channels(network, split, setting, complexity)

    def _channels(
        self, network: DynamicNetwork, split: Split, setting: Setting, complexity: Floats
    ) -> Counts:
        dynamic = network.dynamic
        gates = network.gates({layer.name: layer for layer in setting.model.layers})
        found = setting.answers(dynamic.widest, gates)
        ablations = []
        if split == "test":
            for name, forced in _other_choices(dynamic, found, network.digest).items():
                told = {
                    slot: ForcedGate(gate.widths, gate.layout, torch.from_numpy(forced[slot]))
                    for slot, gate in gates.items()
                }
                other = setting.answers(dynamic.widest, told)
                energy = self._mean_energy(dynamic, other, decides=name != "static")
                ablations.append(_ablation(name, energy, found, other))
        usage = channel_usage(
            self._energy, dynamic, found.choices, found.right, complexity, ablations
        )
        return replace(found.counts(), usage=usage)

    def _mean_energy(self, dynamic: DynamicAllocation, found: Answers, *, decides: bool) -> float:
        layers = layer_choices(dynamic, found.choices, len(found.labels))
        return float(input_energies(self._energy, dynamic, layers, float(decides)).mean())

    def _cascade(
        self, network: DynamicNetwork, split: Split, setting: Setting, complexity: Floats
    ) -> Counts:
        dynamic = network.dynamic
        passes = [self._member(member, split, setting) for member in dynamic.members]
        sure = [
            confidence(passed.logits, temperature)
            for passed, temperature in zip(passes, dynamic.temperatures, strict=False)
        ]
        answered, ran = route(dynamic, sure)
        logits, inputs = np.stack([passed.logits for passed in passes]), np.arange(len(answered))
        often = ran.mean(axis=0).tolist()
        wall_s = sum(p.wall_s * share for p, share in zip(passes, often, strict=True))
        found = Answers(logits[answered, inputs], passes[0].labels, wall_s)
        usage = cascade_usage(self._energy, dynamic, answered, ran, found.right, complexity)
        if split == "test":
            whose = _other_input(len(inputs), network.digest)
            other = Answers(logits[answered[whose], inputs], passes[0].labels, wall_s)
            energy = usage_energy(self._energy, usage) / self._energy.w8a8
            usage = replace(usage, ablations=(_ablation("shuffled", energy, found, other),))
        return replace(found.counts(), usage=usage)

    def _member(self, member: BitAllocation, split: Split, setting: Setting) -> Answers:
        """Return the answers of a member to all images; thresholds then cost nothing to change."""
        key = member.key, split, setting.limit
        if key not in self._passes:
            while len(self._passes) >= _KEPT:
                del self._passes[next(iter(self._passes))]
            self._passes[key] = setting.answers(member)
        return self._passes[key]

    def _complexity(self, split: Split, setting: Setting) -> Floats:
        key = split, setting.limit
        if key not in self._entropies:
            self._entropies[key] = input_entropies(setting.images, setting.limit)
        return self._entropies[key]


def _other_choices(
    dynamic: DynamicAllocation, found: Answers, digest: str
) -> dict[str, Mapping[Slot, npt.NDArray[np.uint8]]]:
    """Return choices that do not follow the input, by name."""
    whose = _other_input(len(found.labels), digest)
    return {
        "static": static_choices(found.choices, dynamic),
        "shuffled": {slot: rows[whose] for slot, rows in found.choices.items()},
    }


def _other_input(count: int, digest: str) -> npt.NDArray[np.int64]:
    """Return another input for each, drawn by the digest of a network; each is another's once."""
    order = np.random.default_rng(int(digest[:15], 16)).permutation(count)
    whose = np.empty(count, np.int64)
    whose[order] = np.roll(order, 1)
    return whose


def _ablation(name: str, energy: float, found: Answers, other: Answers) -> Ablation:
    return Ablation(
        name,
        float(other.right.mean()),
        other.loss,
        energy,
        float((other.right != found.right).mean()),
    )
