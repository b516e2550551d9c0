"""Holding that a change of weights left what a network computes as it was."""

import torch
from torch import Tensor

from ...spaces import ModelError

_TOLERANCE = 1e-4


def check_unchanged(before: Tensor, after: Tensor, change: str) -> None:
    """Check that a network's output is the same.

    Args:
        before: The output before the change.
        after: The output after it.
        change: What was done, for the message.

    Raises:
        ModelError: If it moved by more than 1e-4, norm over norm.
    """
    if not bool(torch.isfinite(before).all()):
        return
    size = float(torch.linalg.vector_norm(before, dtype=torch.float64))
    moved = float(torch.linalg.vector_norm(after - before, dtype=torch.float64))
    if not moved <= _TOLERANCE * size:
        raise ModelError(
            f"{change} moved the output of the network by {moved / max(size, 1e-30):.2g} of its "
            f"size, which must be at most {_TOLERANCE:g}: turn it off for this network"
        )
