"""Measuring networks that choose their widths while they run."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..energy import input_energies
from ..models.dynamic.cascade import confidence, route
from ..models.dynamic.complexity import input_entropies
from ..models.dynamic.evaluate import Answers, answers
from ..models.dynamic.gates import ForcedGate, Gate
from ..models.dynamic.network import DynamicNetwork
from ..models.dynamic.operands import Slot, gated
from ..models.engine import Engine
from ..models.evaluate import Counts
from ..models.quantized import QuantizedModel
from ..spaces import Ablation, BitAllocation, DynamicAllocation, Split, Usage
from .choices import cascade_usage, channel_usage, layer_choices, static_choices
from .requests import Request
from .workload import Workload

_KEPT = 12
"""Most passes of members of cascades that are kept: thresholds are tuned on the same ones."""


class Choosing:
    """Measures dynamic networks, for one worker.

    Args:
        workload: What is measured.
        device: Where the reference runs.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self._workload = workload
        self._device = device
        self._entropies: dict[tuple[Split, int], npt.NDArray[np.float64]] = {}
        self._passes: dict[tuple[str, Split, int], Answers] = {}

    def count(
        self,
        network: DynamicNetwork,
        request: Request,
        model: QuantizedModel,
        engine: Engine | None,
        *,
        limit: int,
        batch_size: int,
    ) -> Counts:
        """Run a dynamic network over the first images of a split.

        On the test split it is also measured with choices that do not follow the input.

        Args:
            network: What chooses.
            request: What is asked.
            model: What it runs on.
            engine: Its engine, if it runs on one.
            limit: Images to take.
            batch_size: Images per batch.
        """
        if network.dynamic.kind == "cascade":
            return self._cascade(network, request, model, engine, limit, batch_size)
        return self._channels(network, request, model, engine, limit, batch_size)

    def _channels(
        self,
        network: DynamicNetwork,
        request: Request,
        model: QuantizedModel,
        engine: Engine | None,
        limit: int,
        batch_size: int,
    ) -> Counts:
        images, dynamic = self._workload.images[request.split], network.dynamic

        def measured(gates: Mapping[Slot, Gate]) -> Answers:
            with gated(model, gates):
                run = self._runner(model, engine, dynamic.widest)
                return answers(run, images, batch_size, limit, gates)

        chosen = network.gates({layer.name: layer for layer in model.layers})
        found = measured(chosen)
        ablations = []
        if request.split == "test":
            for name, forced in _other_choices(dynamic, found, network.digest).items():
                told: dict[Slot, Gate] = {
                    slot: ForcedGate(gate.widths, gate.layout, torch.from_numpy(forced[slot]))
                    for slot, gate in chosen.items()
                }
                ablations.append(self._ablation(name, dynamic, found, measured(told)))
        usage = channel_usage(
            self._workload.energy,
            dynamic,
            found.choices,
            found.right,
            self._complexity(request.split, limit),
            ablations,
        )
        return _with_usage(found, usage)

    def _ablation(
        self, name: str, dynamic: DynamicAllocation, found: Answers, other: Answers
    ) -> Ablation:
        layers = layer_choices(dynamic, other.choices, len(other.labels))
        decisions = 0.0 if name == "static" else 1.0
        energies = input_energies(self._workload.energy, dynamic, layers, decisions)
        return Ablation(
            name,
            float(other.right.mean()),
            other.loss,
            float(energies.mean()),
            float((other.right != found.right).mean()),
        )

    def _cascade(
        self,
        network: DynamicNetwork,
        request: Request,
        model: QuantizedModel,
        engine: Engine | None,
        limit: int,
        batch_size: int,
    ) -> Counts:
        dynamic = network.dynamic
        passes = [
            self._member(member, request.split, limit, model, engine, batch_size)
            for member in dynamic.members
        ]
        sure = [
            confidence(passed.logits, temperature)
            for passed, temperature in zip(passes, dynamic.temperatures, strict=False)
        ]
        answered, ran = route(dynamic, sure)
        logits = np.stack([passed.logits for passed in passes])[answered, np.arange(len(answered))]
        often = ran.mean(axis=0).tolist()
        wall_s = sum(p.wall_s * share for p, share in zip(passes, often, strict=True))
        found = Answers(logits, passes[0].labels, wall_s)
        usage = cascade_usage(
            self._workload.energy,
            dynamic,
            answered,
            ran,
            found.right,
            self._complexity(request.split, limit),
        )
        return _with_usage(found, usage)

    def _member(
        self,
        member: BitAllocation,
        split: Split,
        limit: int,
        model: QuantizedModel,
        engine: Engine | None,
        batch_size: int,
    ) -> Answers:
        """Return the answers of a member to all images; thresholds then cost nothing to change."""
        key = member.key, split, limit
        if key not in self._passes:
            while len(self._passes) >= _KEPT:
                del self._passes[next(iter(self._passes))]
            run = self._runner(model, engine, member)
            self._passes[key] = answers(run, self._workload.images[split], batch_size, limit)
        return self._passes[key]

    def _runner(
        self, model: QuantizedModel, engine: Engine | None, allocation: BitAllocation
    ) -> Callable[[Tensor], Tensor]:
        if engine is not None:
            run = engine.prepare([allocation])
            return lambda x: run(x)[0]
        model.set_allocation(allocation)
        return lambda x: model(x.to(self._device))

    def _complexity(self, split: Split, limit: int) -> npt.NDArray[np.float64]:
        if (split, limit) not in self._entropies:
            self._entropies[split, limit] = input_entropies(self._workload.images[split], limit)
        return self._entropies[split, limit]


def _other_choices(
    dynamic: DynamicAllocation, found: Answers, digest: str
) -> dict[str, Mapping[Slot, npt.NDArray[np.uint8]]]:
    """Return choices that do not follow the input, by name."""
    count = len(found.labels)
    order = np.random.default_rng(int(digest[:15], 16)).permutation(count)
    source = np.empty(count, np.int64)
    source[order] = np.roll(order, 1)  # no input keeps its own
    return {
        "static": static_choices(found.choices, dynamic),
        "shuffled": {slot: rows[source] for slot, rows in found.choices.items()},
    }


def _with_usage(found: Answers, usage: Usage) -> Counts:
    return replace(found.counts(), usage=usage)
