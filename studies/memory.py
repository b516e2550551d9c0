"""Telling that an allocation of memory failed."""

import torch

_SIGNS = (
    "can't allocate memory",  # torch's allocator for CPUs; the next one is that of Windows
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on whatever device.

    Torch says so by a type of its own on accelerators, and on CPUs by the words of a plain
    ``RuntimeError``.

    Examples:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
