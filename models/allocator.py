"""Keeping freed memory for the next tensor.

Every layer of a forward pass makes and drops tensors of megabytes. By default the C library returns
each of them to the system, which then clears and maps the same pages again for the next layer; on a
CPU that takes longer than many of the layers themselves.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_INT = 2**31 - 1
_LARGEST_TENSOR_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of dropped tensors instead of returning it.

    It changes speed and nothing else: results are the same, and so is the peak of the memory used.
    What was used at the peak stays with the process until it ends, so this is for processes whose
    work is to run networks.

    Returns:
        Whether it took effect; it does with glibc (see mallopt(3)), and with no other C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    limits = ((_M_MMAP_THRESHOLD, _LARGEST_TENSOR_BYTES), (_M_TRIM_THRESHOLD, _LARGEST_INT))
    return all([mallopt(option, value) == 1 for option, value in limits])
