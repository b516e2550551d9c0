"""What is asked of an evaluation, and how one that failed is reported; light, without torch."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from ..energy import EnergyModel, usage_costs
from ..energy.size import bops, mean_activation_bits, mean_weight_bits, size_bytes
from ..spaces import BitAllocation, EnergyTableError, Measurement, Split, Usage


@dataclass(frozen=True, slots=True)
class Request:
    """One allocation to be measured.

    Attributes:
        allocation: The widths.
        split: The images to use.
        fidelity: Share of them to use, in (0, 1].
        network: Digest of the trained or dynamic network to measure it with; empty for the study's
            own weights. Such a network is measured as it is: neither adapted nor reconstructed.
    """

    allocation: BitAllocation
    split: Split = "search"
    fidelity: float = 1.0
    network: str = ""

    @classmethod
    def answered_by(cls, measurement: Measurement) -> "Request":
        """Return the request that a measurement answers."""
        network = measurement.network or ""
        return cls(measurement.allocation, measurement.split, measurement.fidelity, network)


def held_networks(
    requests: Iterable[Request], network: Callable[[str], bytes | None]
) -> dict[str, bytes]:
    """Return the trained networks that requests are for, by their digests, as far as there are.

    Args:
        requests: What is asked.
        network: Returns the network of a digest, or None.
    """
    digests = dict.fromkeys(request.network for request in requests if request.network)
    found = {digest: network(digest) for digest in digests}
    return {digest: data for digest, data in found.items() if data is not None}


def priced(measurement: Measurement, energy: EnergyModel) -> Measurement:
    """Return a measurement with the costs an energy model gives its allocation, or its choices.

    Relative energies are NaN where the table does not support a width: float, for one, is a
    baseline under every table, and not every accelerator computes in float.
    """
    allocation, layers = measurement.allocation, energy.layers
    try:
        usage = measurement.dynamic
        found = energy.costs(allocation) if usage is None else usage_costs(energy, usage)
        costs = asdict(found)
        del costs["energy"]
    except EnergyTableError:
        costs = {
            "energy_pj": None,
            "energy_vs_fp32": math.nan,
            "energy_vs_w8a8": math.nan,
            "size_bytes": size_bytes(layers, allocation),
            "bops": bops(layers, allocation),
            "mean_weight_bits": mean_weight_bits(layers, allocation),
            "mean_activation_bits": mean_activation_bits(layers, allocation),
        }
    return replace(measurement, energy_table=energy.table.id, **costs)


def measured(
    request: Request,
    energy: EnergyModel,
    *,
    correct: int,
    loss_sum: float,
    samples: int,
    wall_s: float,
    adaptation_images: tuple[int, int] = (0, 0),
    usage: Usage | None = None,
) -> Measurement:
    """Return the measurement that follows from counts.

    Args:
        request: What was asked.
        energy: Prices the allocation.
        correct: Images classified correctly.
        loss_sum: Cross-entropy summed over the images, in nats.
        samples: Images.
        wall_s: Seconds it took.
        adaptation_images: Images that adapting to it passed forward, and backward.
        usage: What was chosen meanwhile, if anything was.
    """
    forward, backward = adaptation_images
    accuracy = correct / samples
    return priced(
        replace(
            _blank(request),
            accuracy=accuracy,
            accuracy_se=math.sqrt(accuracy * (1.0 - accuracy) / samples),
            loss=loss_sum / samples,
            samples=samples,
            wall_s=wall_s,
            images_forward=forward,
            images_backward=backward,
            dynamic=usage,
        ),
        energy,
    )


def failed(
    request: Request,
    energy: EnergyModel,
    reason: str,
    *,
    samples: int = 0,
    wall_s: float = 0.0,
    adaptation_images: tuple[int, int] = (0, 0),
) -> Measurement:
    """Return the measurement of an allocation that could not be measured.

    Args:
        request: What was asked.
        energy: Prices the allocation.
        reason: Why, as the end of a sentence that begins with the allocation.
        samples: Images that were used up.
        wall_s: Seconds it took.
        adaptation_images: Images that adapting to it passed forward, and backward.
    """
    forward, backward = adaptation_images
    answer = priced(
        replace(
            _blank(request),
            samples=samples,
            wall_s=wall_s,
            images_forward=forward,
            images_backward=backward,
        ),
        energy,
    )
    error = (
        f"allocation {request.allocation.key[:12]} ({answer.mean_weight_bits:.2f} weight bits and "
        f"{answer.mean_activation_bits:.2f} activation bits on average) on the {request.split} "
        f"split {reason}"
    )
    return replace(answer, error=error)


def _blank(request: Request) -> Measurement:
    nan = math.nan
    return Measurement(
        request.allocation,
        accuracy=nan,
        accuracy_se=nan,
        loss=nan,
        energy_vs_fp32=nan,
        energy_vs_w8a8=nan,
        energy_pj=None,
        energy_table="",
        size_bytes=0,
        bops=0,
        mean_weight_bits=nan,
        mean_activation_bits=nan,
        samples=0,
        wall_s=0.0,
        split=request.split,
        fidelity=request.fidelity,
        network=request.network or None,
    )
