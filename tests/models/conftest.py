import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitfront.models import DataConfig, load_data
from bitfront.models.splits import Splits


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load_data(DataConfig(name="digits"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of trained weights."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shared_data() -> Path:
    """The folder with the public data sets; tests that need it are skipped without it."""
    folder = os.environ.get("BITFRONT_DATA")
    if folder is None:
        pytest.skip("BITFRONT_DATA is not set to the folder of the public data sets")
    return Path(folder)
