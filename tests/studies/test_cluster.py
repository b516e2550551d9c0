import os
import socket

import pytest

from bitfront.spaces import StudyError
from bitfront.studies.cluster import _environment, connected


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(StudyError, match="host:port"), connected(address, cpus=1, store_bytes=0):
        pass


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(StudyError, match=rf"no Ray cluster answers at '{address}'"),
        connected(address, cpus=1, store_bytes=0),
    ):
        pass


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("BITFRONT_TEST_SET", "mine")
    monkeypatch.delenv("BITFRONT_TEST_UNSET", raising=False)
    with _environment({"BITFRONT_TEST_SET": "ours", "BITFRONT_TEST_UNSET": "ours"}):
        assert os.environ["BITFRONT_TEST_SET"] == "mine"
        assert os.environ["BITFRONT_TEST_UNSET"] == "ours"
    assert "BITFRONT_TEST_UNSET" not in os.environ
