"""Trained networks as strategies handed them over, made ready to be measured."""

from ..models.quantized import QuantizedModel
from ..models.trained import TrainedNetwork
from ..spaces import StudyError
from .requests import Request
from .workload import Workload


def deployed(workload: Workload, request: Request, data: bytes | None) -> QuantizedModel:
    """Return a calibrated network that computes a trained one at the widths of its allocation.

    Args:
        workload: What is measured.
        request: A request with a network.
        data: The network as bytes; None if it is not there.

    Raises:
        StudyError: If it is not there, damaged, or not what the request is for.
        ModelError: If it is of another architecture.
    """
    name = f"its trained network {request.network}"
    if data is None:
        raise StudyError(
            f"{name} is not in the study's folder any more, or cannot be read; delete that folder "
            f"to have it trained again"
        )
    network = TrainedNetwork.from_bytes(data)
    if network.digest != request.network:
        raise StudyError(f"{name} is damaged: what is in its file has digest {network.digest}")
    if network.allocation != request.allocation:
        raise StudyError(f"{name} was trained for another allocation")
    return network.deploy(
        workload.architecture.build(),
        workload.layers,
        workload.quantizer.without_repairs,
        workload.calibration(),
    )
