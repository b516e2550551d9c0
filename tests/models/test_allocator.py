"""Memory that is kept: the next tensor of that size costs no fresh pages."""

import platform
import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource, sys
import torch
from bitfront.models.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def make_and_drop():
    for _ in range(10):
        torch.ones(24, 2**20)
make_and_drop()  # until the heap has room for them
before = faults()
make_and_drop()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_dropped_tensors_are_reused_without_page_faults():
    def page_faults(mode: str) -> int:
        command = [sys.executable, "-c", COUNT_PAGE_FAULTS, mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Ten tensors of 96 MiB: thousands of faults even if the system maps huge pages of 2 MiB. A busy
    # system may take idle pages back meanwhile; it does not three times in a row.
    assert min(page_faults("keep") for _ in range(3)) < 100 < page_faults("default")
