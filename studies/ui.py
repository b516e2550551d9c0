"""Starting MLflow's server on this machine, and the address of a study's page in it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from types import TracebackType
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from ..spaces import StudyError, nearest
from .mlflow_store import artifact_root, connect, is_server, reported, without_password
from .mlflow_views import VIEW_TAG, view_fragment

HOST = "127.0.0.1"
"""Nobody but this machine can reach the server."""

_START_TIMEOUT_S = 120.0
_POLL_S = 0.2
_STOP_TIMEOUT_S = 10.0


class Ui:
    """A page of MLflow's UI and, unless somebody else runs it, the server that shows it.

    A context manager: leaving it stops the server.

    Attributes:
        url: The address to open.
    """

    def __init__(self, url: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
        self.url = url
        self._server = server

    def __enter__(self) -> "Ui":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait(self) -> None:
        """Return when the server ends or Ctrl-C is pressed; at once if it is not ours."""
        if self._server is not None:
            with suppress(KeyboardInterrupt):
                self._server.wait()

    def stop(self) -> None:
        """End the server if it is ours; it may have ended already."""
        if self._server is not None:
            _stop(self._server)


def start_ui(uri: str, experiment: str | None = None, *, port: int | None = None) -> Ui:
    """Show a store in MLflow's UI, open on an experiment's preset page.

    Args:
        uri: Tracking URI. A tracking server shows its own pages, so that nothing is started.
        experiment: Name of the experiment; the list of experiments if None.
        port: Port on 127.0.0.1; a free one if None.

    Returns:
        The page, once the server answers.

    Raises:
        StudyError: If there is no such store or experiment, or the port is taken, or the server
            does not start.
    """
    fragment = _fragment(uri, experiment)
    if is_server(uri):
        return Ui(f"{uri.rstrip('/')}/{fragment}")
    chosen = _free_port(port)
    address = f"http://{HOST}:{chosen}"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            _command(uri, chosen), stdout=log, stderr=subprocess.STDOUT, env=_environment()
        )
        try:
            _wait_until_healthy(server, address)
        except BaseException as error:
            _stop(server)
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            if isinstance(error, StudyError) and said:
                raise StudyError(f"{error}; it said: {said.splitlines()[-1]}") from None
            raise
    return Ui(f"{address}/{fragment}", server)


def _fragment(uri: str, experiment: str | None) -> str:
    client = connect(uri)
    if experiment is None:
        return "#/experiments"
    with reported(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage == "deleted":
            known = [entry.name for entry in client.search_experiments()]
            raise StudyError(
                f"no experiment {experiment!r} in {without_password(uri)}; "
                f"{nearest(experiment, known)}"
            )
    if VIEW_TAG in found.tags:
        return view_fragment(found.experiment_id)
    return f"#/experiments/{found.experiment_id}/runs"


def _free_port(port: int | None) -> int:
    """Return the port asked for, or any free one, after checking that it can be bound."""
    with socket.socket() as probe:
        # As the server does: a port that lingers after its last connection can be taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StudyError(
                f"port {port} on {HOST} cannot be used ({reason}); choose another with --port, or "
                f"leave it out for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _command(uri: str, port: int) -> list[str]:
    command = [
        sys.executable,
        *("-m", "mlflow", "server"),
        *("--backend-store-uri", uri),
        *("--host", HOST, "--port", str(port)),
        *("--workers", "1"),
        # Other names that resolve to this machine are how a foreign page would get in.
        *("--allowed-hosts", f"{HOST}:{port},localhost:{port}"),
        *("--x-frame-options", "DENY"),
    ]
    if (root := artifact_root(uri)) is not None:  # else the working folder would take new ones
        command += ["--artifacts-destination", root]
    return command


def _environment() -> dict[str, str]:
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # background jobs nobody here submits
        "PYTHONWARNINGS": "ignore",
        **os.environ,
    }
    # MLflow's own variables would override the store named on its command line.
    environment.pop("MLFLOW_TRACKING_URI", None)
    return environment


def _wait_until_healthy(server: "subprocess.Popen[bytes]", address: str) -> None:
    opener = build_opener(ProxyHandler({}))  # a proxy cannot see our loopback
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if (code := server.poll()) is not None:
            raise StudyError(f"MLflow's server ended with exit code {code}")
        with suppress(URLError, OSError):
            opener.open(f"{address}/health", timeout=5).close()
            return
        time.sleep(_POLL_S)
    raise StudyError(f"MLflow's server did not answer within {_START_TIMEOUT_S:.0f} s")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Ask MLflow to end, which passes it on to its worker; insist if it does not."""
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
