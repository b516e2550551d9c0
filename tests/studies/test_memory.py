import subprocess
import sys

import pytest
import torch

from bitfront.studies.memory import is_out_of_memory


def failing(bytes_):
    try:
        return torch.empty(bytes_, dtype=torch.uint8)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("std::bad_alloc"),
        failing(2**60),
    ],
)
def test_memory_that_ran_out(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")],
)
def test_other_errors(error):
    assert not is_out_of_memory(error)


SCRIPT = """\
import resource
import sys
import numpy as np
import torch
from bitfront.energy import EnergyModel, load_table
from bitfront.models.config import QuantizerConfig
from bitfront.models.images import ImageSet
from bitfront.models.profile import profile
from bitfront.spaces import BitAllocation
from bitfront.studies.evaluation import Worker
from bitfront.studies.requests import Request
from bitfront.studies.workload import Architecture, Workload

torch.set_num_threads(1)
architecture = Architecture("resnet20", 10, (3, 32, 32), {}, 0)
model = architecture.build()
layers = profile(model, (3, 32, 32))
pixels = np.random.default_rng(0).standard_normal((1024, 3, 32, 32), dtype=np.float32)
images = ImageSet(pixels, np.zeros(1024, np.int64), (0.0,) * 3, (1.0,) * 3)
few = images.subset(np.arange(32))
workload = Workload(
    architecture,
    {name: tensor.numpy() for name, tensor in model.state_dict().items()},
    layers,
    {"calibration": few, "search": images, "test": few},
    QuantizerConfig(),
    1024,
    EnergyModel(load_table("horowitz-45nm"), layers),
    engine="reference",
)
worker = Worker(workload)
sizes, count = [], worker._count

def counted(requests, size):
    sizes.append(size)
    return count(requests, size)

worker._count = counted
request = Request(BitAllocation.uniform(layers, 32))

def limited(megabytes):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        ((_, answer),) = worker.measure([request])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    print(sizes, 'failed' if answer.failed else 'measured'); sizes.clear()

for megabytes in map(int, sys.argv[1:]):
    limited(megabytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_a_process_whose_memory_is_limited_measures_in_halved_batches_or_fails_and_goes_on():
    # An activation of the first stage has 64 MB with 1,024 images, and there are three at a time.
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, "40", "260", "700"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.splitlines() == [
        "[1024, 512] failed",
        "[1024, 512] measured",
        "[1024] measured",
    ]
