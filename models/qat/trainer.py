"""Training a quantized network, epoch by epoch: Algorithm 1 of EQAT, and plainer ones within it.

The loss of a step is ``CE(quantized, labels) + alpha KL(quantized || full precision) + beta E``,
with the energy E of the widths relative to uniform 8 bit. Weights, ranges and what widths follow
from take their steps together, each with an optimizer and a learning rate of their own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from ...spaces import BitAllocation, ModelError
from ..augment import shuffled_batches
from ..config import OptimizerName
from ..images import ImageSet
from ..optimizers import make_optimizer, rate_factor
from ..threads import fixed_threads
from ..trained import TrainedNetwork
from .config import QatSettings
from .coreset import Coreset, scores
from .network import TrainableNetwork, batch_norms
from .optimizer_state import optimizer_state, restore_optimizer
from .ranges import Width

_SCORED = 256
"""Images of a pass in which the members of a coreset are chosen."""


class LearnedWidths(Protocol):
    """Widths that are learned with the weights: a module whose parameters have gradients."""

    def operands(self) -> tuple[Sequence[Width], Sequence[Width]]:
        """Return the widths to compute with, of the weights and of the inputs by layer."""
        ...

    def energy(self) -> Tensor:
        """Return the energy relative to uniform 8 bit, as a function of what is learned."""
        ...

    def rounded(self) -> BitAllocation:
        """Return the nearest allocation of the space."""
        ...

    def observe(self, beta: float) -> None:
        """Take note of the gradients of a step, before the step is taken.

        Args:
            beta: Factor of the energy in the loss.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what is learned."""
        ...


@dataclass(frozen=True)
class EpochReport:
    """How an epoch went; losses are means over its images.

    Attributes:
        epoch: Its number, from 1.
        cross_entropy: Between quantized answers and labels, in nats.
        kl: KL(quantized || full precision), in nats; 0 if it was not computed.
        energy: Learned energy relative to uniform 8 bit at the end; NaN if widths are constant.
        beta: Factor of the energy at the end.
        accuracy: Share of the training images that were right.
        images: Images trained on.
        images_forward: Images passed forward, in all passes.
        images_backward: Images passed backward.
    """

    epoch: int
    cross_entropy: float
    kl: float
    energy: float
    beta: float
    accuracy: float
    images: int
    images_forward: int
    images_backward: int


class Trainer:
    """Trains a network with its quantizers.

    Args:
        network: What is trained, in place.
        images: What it is trained on.
        calibration: Images on which batch norms are estimated before a network is deployed.
        settings: How.
        seed: Of the order of images, their augmentation, and dropout.
        teacher: The float network of ``teacher: trained``.
        device: Where it trains.

    Attributes:
        epoch: Epochs done, or under way.
        position: Epochs done, with the share of the one under way.
        coreset: Which images epochs use.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        images: ImageSet,
        calibration: Sequence[tuple[Tensor, Tensor]],
        settings: QatSettings,
        *,
        seed: int,
        teacher: nn.Module | None = None,
        device: str = "cpu",
    ) -> None:
        self.network, self.settings, self.epoch, self.position = network, settings, 0, 0.0
        self._device = torch.device(device)
        network.to(self._device)
        self._memory_format = _arranged(network, images)
        self._teacher = None if teacher is None else teacher.eval().to(self._device)
        self._images, self._calibration, self._seed = images, calibration, seed
        self._batch_size = min(settings.batch_size, len(images))
        self._sums = _Sums()
        self._learned: LearnedWidths | None = None
        self._allocation: BitAllocation | None = None
        self.coreset = Coreset(
            len(images),
            fraction=settings.coreset_fraction,
            every=settings.coreset_every,
            at_least=self._batch_size,
        )
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "weights": make_optimizer(
                network.float_parameters(), settings.optimizer, settings.lr, settings.weight_decay
            )
        }
        if ranges := network.range_parameters():
            self._optimizers["ranges"] = make_optimizer(ranges, "adam", settings.range_lr)
        self._scheduled = {
            name: (optimizer.param_groups[0]["lr"], settings.epochs)
            for name, optimizer in self._optimizers.items()
        }

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, of the first that trains on a coreset if any does."""
        return self.coreset.size // self._batch_size

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self._device

    def learn_widths(
        self, learned: LearnedWidths, *, optimizer: OptimizerName, lr: float, epochs: int
    ) -> None:
        """Learn widths from now on.

        Args:
            learned: The widths; a module is brought to `device`.
            optimizer: What takes their steps.
            lr: Its learning rate, which falls as that of the weights does.
            epochs: How many epochs they are to be learned.
        """
        if isinstance(learned, nn.Module):
            learned.to(self._device)
        self._learned, self._allocation = learned, None
        self._optimizers["widths"] = make_optimizer(learned.parameters(), optimizer, lr)
        self._scheduled["widths"] = lr, epochs

    def hold_widths(self, allocation: BitAllocation) -> None:
        """Train at constant widths from now on."""
        self._learned, self._allocation = None, allocation
        self._optimizers.pop("widths", None)
        self._scheduled.pop("widths", None)

    def run_epoch(self, beta: Callable[[float], float] = lambda energy: 0.0) -> EpochReport:
        """Train for an epoch.

        Args:
            beta: Called at every step with the energy of the widths relative to uniform 8 bit;
                returns the factor it has in the loss.

        Raises:
            ModelError: If a term of the loss or a gradient is not finite; says which, and where.
        """
        self.epoch += 1
        generator = torch.Generator().manual_seed(self._epoch_seed())
        with fixed_threads(self.settings.threads), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._epoch_seed())  # for dropout
            self._sums = sums = _Sums()
            images = self._chosen(sums)
            self.network.train()
            steps = len(images) // self._batch_size
            batches = shuffled_batches(images, self._batch_size, self.settings.augment, generator)
            for step, (x, labels) in enumerate(batches):
                self.position = self.epoch - 1 + step / steps
                self._schedule(self.position)
                where = f"in step {step + 1} of {steps} of epoch {self.epoch}"
                self._step(self._placed(x), labels.to(self._device), beta, sums, where)
            self.network.eval()
        return sums.report(self.epoch)

    def trained(self, allocation: BitAllocation) -> TrainedNetwork:
        """Return the network as it is now, to run at the widths of an allocation.

        Batch norms are estimated for that: their running statistics may be of other widths, or of
        the float network still where an epoch has few steps.
        """
        with fixed_threads(self.settings.threads):
            self._estimate(allocation)
        return self.network.trained(allocation)

    @property
    def passed(self) -> tuple[int, int]:
        """Images passed forward and backward in the epoch under way, or in the last one."""
        return self._sums.images_forward, self._sums.images

    @property
    def images_estimated(self) -> int:
        """Images passed forward, to estimate batch norms, for each of the networks `trained`."""
        return sum(len(x) for x, _ in self._calibration) if self._norms() else 0

    def state(self) -> dict[str, Any]:
        """Return all that training has changed, arrays and plain values by name."""
        state: dict[str, Any] = {"epoch": self.epoch, **_prefixed("coreset/", self.coreset.state())}
        for name, tensor in self.network.state_dict().items():
            state[f"network/{name}"] = tensor.detach().cpu().numpy().copy()
        if isinstance(self._learned, nn.Module):
            for name, tensor in self._learned.state_dict().items():
                state[f"widths/{name}"] = tensor.detach().cpu().numpy().copy()
        for name, optimizer in self._optimizers.items():
            state |= optimizer_state(optimizer, f"optimizer/{name}/")
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where another trainer of the same network and settings had this `state`.

        Widths are to be learned or held as they were there, before this is called.
        """
        self.epoch = state["epoch"]
        self.coreset.restore(_under("coreset/", state))
        self.network.load_state_dict(_tensors(state, "network/"))
        if isinstance(self._learned, nn.Module):
            self._learned.load_state_dict(_tensors(state, "widths/"))
        for name, optimizer in self._optimizers.items():
            restore_optimizer(optimizer, state, f"optimizer/{name}/")

    def _placed(self, x: Tensor) -> Tensor:
        """Return images where, and as, the network computes with them."""
        return x.to(self._device, memory_format=self._memory_format)

    def _epoch_seed(self) -> int:
        return int(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0])

    def _schedule(self, epochs_done: float) -> None:
        """Set the learning rates of what is scheduled; coresets do not shorten the schedule."""
        for name, (lr, epochs) in self._scheduled.items():
            factor = rate_factor(epochs_done, epochs, self.settings.schedule)
            for group in self._optimizers[name].param_groups:
                group["lr"] = lr * factor

    def _step(
        self, x: Tensor, labels: Tensor, beta: Callable[[float], float], sums: "_Sums", where: str
    ) -> None:
        settings = self.settings
        dropout = _dropout_state(self._device)
        full = self._full_precision(x) if settings.alpha > 0 else None
        if self._teacher is None:  # the same masks: what differs shall be the quantizers
            _set_dropout_state(self._device, dropout)
        with self._arithmetic():
            self._set_widths()
            logits = self.network(x).float()
        terms = {"cross-entropy": cross_entropy(logits, labels)}
        if full is not None:
            log_q, log_p = logits.log_softmax(1), full.log_softmax(1)
            terms["KL divergence"] = (log_q.exp() * (log_q - log_p)).sum(1).mean()
        if self._learned is not None:
            terms["energy"] = self._learned.energy()
        values = {name: term.item() for name, term in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise ModelError(
                    f"training diverged: the {name} is {value} {where}; {self._advice()}"
                )
        factors = {"cross-entropy": 1.0, "KL divergence": settings.alpha}
        if "energy" in values:
            factors["energy"] = beta(values["energy"])
        loss = torch.stack([factors[name] * term for name, term in terms.items()]).sum()
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._require_finite_gradients(where)
        if self._learned is not None:
            self._learned.observe(factors["energy"])
        for optimizer in self._optimizers.values():
            optimizer.step()
        correct = int((logits.argmax(1) == labels).sum())
        sums.add(len(x), correct, values, factors.get("energy", 0.0), passes=1 + (full is not None))

    def _set_widths(self) -> None:
        """Set the widths of this step."""
        if self._learned is not None:
            self.network.set_widths(*self._learned.operands())
            return
        if self._allocation is None:
            raise ModelError("a trainer needs widths, learned or held, before it trains")
        self.network.set_allocation(self._allocation)

    @torch.no_grad()
    def _full_precision(self, x: Tensor) -> Tensor:
        with self._arithmetic():
            if self._teacher is not None:
                return self._teacher(x).float()  # type: ignore[no-any-return]
            with self.network.full_precision():
                return self.network(x).float()  # type: ignore[no-any-return]

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        low = self.settings.arithmetic == "bfloat16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=low):
            yield

    def _require_finite_gradients(self, where: str) -> None:
        groups = (group for opt in self._optimizers.values() for group in opt.param_groups)
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise ModelError(
                f"training diverged: a gradient is not finite {where}; {self._advice()}"
            )

    def _advice(self) -> str:
        return f"lower lr (now {self.settings.lr}) or range_lr (now {self.settings.range_lr})"

    @torch.no_grad()
    def _chosen(self, sums: "_Sums") -> ImageSet:
        """Return the images of this epoch: all, or a coreset."""
        if self.coreset.due(self.epoch):
            self.network.eval()
            self._set_widths()
            progress = (self.epoch - 1) / self.settings.epochs
            found = []
            for x, labels in self._images.batches(_SCORED):
                x, labels = self._placed(x), labels.to(self._device)
                full = self._full_precision(x)
                with self._arithmetic():
                    logits = self.network(x).float()
                found.append(scores(logits, full, labels, progress))
            sums.images_forward += 2 * len(self._images)
            self.coreset.choose(torch.cat(found), self.epoch)
        self.coreset.count_epoch()
        return self._images if self.coreset.keeps_all else self._images.subset(self.coreset.indices)

    def _norms(self) -> list[_BatchNorm]:
        return [norm for norm in batch_norms(self.network) if norm.track_running_stats]

    @torch.no_grad()
    def _estimate(self, allocation: BitAllocation) -> None:
        """Set the statistics of batch norms to their means over the calibration images."""
        norms = self._norms()
        if norms:
            before = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
            self.network.set_allocation(allocation)
            self.network.eval()
            for norm in norms:
                norm.train()
            for x, _ in self._calibration:
                self.network(self._placed(x))
            self.network.eval()
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum


def _dropout_state(device: torch.device) -> Tensor:
    on_gpu = device.type == "cuda"
    return torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()


def _set_dropout_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@torch.no_grad()
def _arranged(network: TrainableNetwork, images: ImageSet) -> torch.memory_format:
    """Bring a network into the memory format that convolutions are fastest in, if it runs in it.

    That saves a fifth of the time of a step on the CPU.
    """
    if not any(layer.kind == "conv" for layer in network.layers):
        return torch.contiguous_format
    example, _ = images.batch(slice(0, 1))
    _set_memory_format(network.eval(), torch.channels_last)
    try:
        device = next(network.parameters()).device
        network(example.to(device, memory_format=torch.channels_last))
    except RuntimeError:  # it takes a `view` that only contiguous tensors have
        _set_memory_format(network, torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def _set_memory_format(network: nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


class _Sums:
    """What an epoch adds up."""

    def __init__(self) -> None:
        self.images = self.correct = self.images_forward = 0
        self.totals: dict[str, float] = {}
        self.energy, self.beta = math.nan, 0.0

    def add(
        self, count: int, correct: int, values: Mapping[str, float], beta: float, *, passes: int
    ) -> None:
        """Add a step."""
        self.images += count
        self.correct += correct
        self.images_forward += passes * count
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + count * value
        self.energy, self.beta = values.get("energy", math.nan), beta

    def report(self, epoch: int) -> EpochReport:
        """Return the epoch's means."""
        return EpochReport(
            epoch,
            self.totals["cross-entropy"] / self.images,
            self.totals.get("KL divergence", 0.0) / self.images,
            self.energy,
            self.beta,
            self.correct / self.images,
            self.images,
            self.images_forward,
            self.images,
        )


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}


def _under(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `_prefixed` was given."""
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _tensors(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.array(value)) for name, value in _under(prefix, state).items()
    }
