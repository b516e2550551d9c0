"""The confidence cascade: the first answers stay where they are sure, others are redone.

[DPT] "Dynamic Precision Tuning for Energy Savings", an article of 2025: above an upper confidence
the low precision stays, below a lower one the highest is used, in between a middle one.

[GPS17] Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor

from ...spaces import BitAllocation, DynamicAllocation, ModelError
from ..engine import Engine, NonFiniteError
from ..quantized import QuantizedModel

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TEMPERATURES = (0.1, 10.0)
"""The smallest and the largest temperature that are fitted."""


def confidence(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Return the probability of the most likely class.

    Args:
        logits: ``[..., classes]``.
        temperature: What logits are divided by.

    Returns:
        ``[...]``; NaN where logits are not finite.

    Examples:
        >>> confidence([[0.0, 0.0], [9.0, -9.0]]).round(3).tolist()
        [0.5, 1.0]
    """
    exact = np.asarray(logits, dtype=np.float64) / temperature
    with np.errstate(invalid="ignore"):  # of infinite logits
        above = exact - exact.max(axis=-1, keepdims=True)
    return np.asarray(1.0 / np.exp(above).sum(axis=-1))


def route(dynamic: DynamicAllocation, confidences: Sequence[Floats]) -> tuple[Integers, Bools]:
    """Return who answers each input.

    The first member is run on all. Where it reaches the first threshold its answer stays. With two
    members the second answers the others. With three the second is run where the first reaches the
    last threshold, and its answer stays where it reaches that, too; the third answers the rest. A
    confidence of NaN reaches nothing.

    Args:
        dynamic: The cascade.
        confidences: For each member but the last how sure it is of ``n`` inputs, also of those that
            it is not run on, where it makes no difference.

    Returns:
        The member that answers, ``[n]``, and which members are run, ``[n, members]``.

    Raises:
        ModelError: If there are not as many confidences as thresholds.
    """
    last = len(dynamic.members) - 1
    if len(confidences) != last:
        raise ModelError(
            f"a cascade of {last + 1} members needs the confidences of {last}, got those of "
            f"{len(confidences)}"
        )
    first = np.asarray(confidences[0])
    ran = np.zeros((len(first), last + 1), dtype=np.bool_)
    stays = first >= dynamic.thresholds[0]
    ran[:, 0] = True
    answered = np.where(stays, 0, last)
    if last == 2:
        least = dynamic.thresholds[1]
        ran[:, 1] = np.logical_not(stays) & (first >= least)
        answered[ran[:, 1] & (np.asarray(confidences[1]) >= least)] = 1
    ran[answered == last, last] = True
    return answered.astype(np.int64), ran


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the temperature with the smallest cross-entropy [GPS17], within `TEMPERATURES`.

    Args:
        logits: ``[n, classes]``; rows that are not finite are left out.
        labels: ``[n]``.

    Returns:
        1 where every answer is right or there is none: nothing then says how sure is too sure.
    """
    exact, classes = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    kept = np.isfinite(exact).all(axis=-1)
    exact, classes = exact[kept], classes[kept]
    if not len(exact) or (exact.argmax(axis=1) == classes).all():
        return 1.0
    rows = np.arange(len(exact))

    def cross_entropy(logarithm: float) -> float:
        return -float(log_softmax(exact / math.exp(logarithm), axis=1)[rows, classes].mean())

    low, high = map(math.log, TEMPERATURES)
    # Convex in 1 / T, and so with one minimum in log T, too.
    found = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded")
    return math.exp(float(found.x))


@torch.inference_mode()
def member_logits(
    network: Engine | QuantizedModel,
    members: Sequence[BitAllocation],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> tuple[npt.NDArray[np.float32], Integers]:
    """Return what allocations of one network answer to the same images.

    Args:
        network: What runs them; of a `QuantizedModel` the allocation is another one afterwards.
        members: The allocations.
        batches: Images and labels, such as `ImageSet.batches` of the rows that are wanted.

    Returns:
        Logits, ``[members, n, classes]``, NaN for all images of a batch on which an engine is given
        values that are not finite; and labels, ``[n]``.

    Raises:
        ModelError: If there are no images, or no member has logits for any.
    """
    runs = _runs(network, members)
    logits: list[list[Tensor | None]] = []
    labels: list[Integers] = []
    for x, y in batches:
        logits.append([each for run in runs for each in run(x)])
        labels.append(y.cpu().numpy().astype(np.int64))
    classes = next((len(one[0]) for row in logits for one in row if one is not None), 0)
    if not classes:
        raise ModelError("a cascade is chosen from the answers to images, and there are none")
    parts = []
    for row, truth in zip(logits, labels, strict=True):
        part = np.full((len(members), len(truth), classes), np.nan, dtype=np.float32)
        for number, one in enumerate(row):
            if one is not None:
                part[number] = one.float().cpu().numpy()
        parts.append(part)
    return np.concatenate(parts, axis=1), np.concatenate(labels)


def _runs(
    network: Engine | QuantizedModel, members: Sequence[BitAllocation]
) -> list[Callable[[Tensor], list[Tensor | None]]]:
    """Return functions whose logits, one after the other, are those of the members."""
    if isinstance(network, QuantizedModel):

        def run_each(x: Tensor) -> list[Tensor | None]:
            found: list[Tensor | None] = []
            for member in members:
                network.set_allocation(member)
                found.append(network(x))
            return found

        return [run_each]
    groups = [[members[number] for number in group] for group in network.together(members)]
    return [partial(_finite_or_none, network, group) for group in groups]


def _finite_or_none(
    engine: Engine, members: Sequence[BitAllocation], x: Tensor
) -> list[Tensor | None]:
    try:
        return list(engine.forward_each(x, members))
    except NonFiniteError:
        if len(members) == 1:
            return [None]
        return [_finite_or_none(engine, [member], x)[0] for member in members]
