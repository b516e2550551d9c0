"""Being connected to Ray, and leaving it as it was found."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..spaces import StudyError

_QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody asked for usage reports
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by default; else it warns
    "RAY_AIR_NEW_OUTPUT": "0",  # only the older of Tune's two outputs can be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for the driver, not for Tune alone
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of many questions that fail alike, one is raised
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a strategy's relative paths mean what they mean in the driver
}

_STORE_MARGIN_BYTES = 128 * 2**20
_PATIENCE_S = 10.0


@contextmanager
def connected(address: str | None, *, cpus: int, store_bytes: int) -> Iterator[None]:
    """Be connected to a Ray cluster.

    A connection that exists already is used, and left open.

    Args:
        address: A running cluster that this machine belongs to, as ``host:port`` or ``auto``; None
            starts one on this machine and stops it at the end.
        cpus: CPUs of the local one.
        store_bytes: Bytes that will be shared.

    Raises:
        StudyError: If the cluster cannot be reached.
    """
    import ray

    with _environment(_QUIET):
        if ray.is_initialized():
            yield
            return
        if address is not None:
            require_listening(address)
        try:
            if address is None:
                ray.init(
                    address="local",  # whatever RAY_ADDRESS says
                    num_cpus=cpus,
                    object_store_memory=store_bytes + _STORE_MARGIN_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise _no_cluster(address, error) from error
        try:
            yield
        finally:
            ray.shutdown()


def require_listening(address: str) -> None:
    """Try the address of a cluster once: Ray itself tries for many minutes.

    Args:
        address: ``host:port``, or ``auto``, which only Ray can look up.

    Raises:
        StudyError: If it is no address, or nothing answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdecimal()):
        raise StudyError(
            f"execution.address is host:port of a Ray cluster that this machine belongs to, or "
            f"'auto', got {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> StudyError:
    where = "can be started on this machine" if address is None else f"answers at {address!r}"
    return StudyError(
        f"no Ray cluster {where} ({error}); start one with 'ray start --head', correct "
        f"execution.address, or run with workers 0"
    )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that processes started inside inherit; what is set stays."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
