"""Networks as strategies handed them over, made ready to be measured."""

from ..models.dynamic.network import DynamicNetwork, load_network
from ..models.quantized import QuantizedModel
from ..models.trained import TrainedNetwork
from ..spaces import StudyError
from .requests import Request
from .workload import Workload

Network = TrainedNetwork | DynamicNetwork


def handed_over(request: Request, data: bytes | None) -> Network:
    """Return the network of a request.

    Args:
        request: A request with a network.
        data: The network as bytes; None if it is not there.

    Raises:
        StudyError: If it is not there, damaged, or not what the request is for.
        ModelError: If its bytes cannot be read.
    """
    name = f"its trained network {request.network}"
    if data is None:
        raise StudyError(
            f"{name} is not in the study's folder any more, or cannot be read; delete that folder "
            f"to have it trained again"
        )
    network = load_network(data)
    if network.digest != request.network:
        raise StudyError(f"{name} is damaged: what is in its file has digest {network.digest}")
    if network.allocation != request.allocation:
        raise StudyError(f"{name} was trained for another allocation")
    return network


def deployed(workload: Workload, network: Network) -> QuantizedModel:
    """Return a calibrated network that computes a trained one.

    Args:
        workload: What is measured.
        network: One that was trained; it is at the widths of its allocation, and ready for gates
            if it is dynamic.

    Raises:
        ModelError: If it is of another architecture.
    """
    return network.deploy(
        workload.architecture.build(),
        workload.layers,
        workload.quantizer.without_repairs,
        workload.calibration(),
    )
