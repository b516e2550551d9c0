"""Computing with a fixed number of torch threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Compute with a fixed number of torch threads: sums round differently with another.

    Args:
        threads: The number inside; what it was before is restored at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
