"""Where MLflow keeps a study's runs: choosing the store, checking it, talking to it.

MLflow and its database layer take two seconds to import and talk much; both stay in here.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ..spaces import StudyError

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
STORE_FILE = "mlflow.db"
ARTIFACT_FOLDER = "mlflow-artifacts"

_SQLITE = "sqlite:///"
_SQLITE_HEADER = b"SQLite format 3\x00"
_NO_ADDRESSES = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
_REACHABLE_TIMEOUT_S = 10.0


def resolve_uri(uri: str | None, output: Path) -> str:
    """Return the tracking URI to use.

    Args:
        uri: What the study says; it comes first.
        output: The folder that holds the studies; without a URI from the study or from
            ``MLFLOW_TRACKING_URI``, the store is a SQLite file in it.
    """
    chosen = uri or os.environ.get(URI_VARIABLE)
    return chosen or f"{_SQLITE}{(output.resolve() / STORE_FILE).as_posix()}"


def is_server(uri: str) -> bool:
    """Whether the URI is that of a tracking server rather than of a store."""
    return urlsplit(uri).scheme in ("http", "https")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def artifact_root(uri: str) -> str | None:
    """Return where artifacts go: beside a SQLite file, elsewhere as the store decides."""
    path = sqlite_path(uri)
    return None if path is None else (path.resolve().parent / ARTIFACT_FOLDER).as_uri()


def connect(uri: str, *, create: bool = False) -> "MlflowClient":
    """Open a store without touching MLflow's global settings or an active run.

    MLflow itself tries an unusable store again for minutes, so what can be seen at once is
    looked at first.

    Args:
        uri: As returned by `resolve_uri`.
        create: Whether a SQLite file that does not exist is made.

    Raises:
        StudyError: If the store does not exist, is not one, or cannot be reached.
    """
    if is_server(uri):
        _check_reachable(uri)
    elif (path := sqlite_path(uri)) is not None:
        _check_sqlite(path, create=create)
    # Nobody asked for usage reports to MLflow's makers; a person who wants them sets it to false.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with reported(uri):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


@contextmanager
def reported(uri: str) -> Iterator[None]:
    """Keep MLflow quiet below warnings, and turn its errors into one sentence.

    Raises:
        StudyError: If the store refuses what is done inside.
    """
    with _quiet():
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            reason = str(error).strip().splitlines()[0]
            raise StudyError(f"MLflow's store at {without_password(uri)}: {reason}") from error
        except OSError as error:
            raise StudyError(f"MLflow's store at {without_password(uri)}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back progress messages, and the warnings MLflow's libraries address to MLflow."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    address_printed = os.environ.get(_NO_ADDRESSES)
    os.environ[_NO_ADDRESSES] = "true"  # one line for every run logged to a server
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        if address_printed is None:
            del os.environ[_NO_ADDRESSES]
        else:
            os.environ[_NO_ADDRESSES] = address_printed
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def without_password(uri: str) -> str:
    """Return the URI as it may be shown.

    Examples:
        >>> without_password("postgresql://ana:secret@db/mlflow")
        'postgresql://ana:***@db/mlflow'
    """
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def _check_reachable(uri: str) -> None:
    shown = without_password(uri)
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=_REACHABLE_TIMEOUT_S).close()
    except HTTPError as answer:
        answer.close()  # it answered; whether we may log in is for MLflow to find out
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StudyError(
            f"no MLflow server answers at {shown} ({reason}); start it, or correct tracking.uri "
            f"in the study or {URI_VARIABLE}"
        ) from error


def _check_sqlite(path: Path, *, create: bool) -> None:
    if path.exists():
        try:
            with path.open("rb") as file:
                header = file.read(len(_SQLITE_HEADER))
        except OSError as error:
            raise StudyError(f"MLflow's store {path} cannot be read: {error.strerror}") from error
        if header and header != _SQLITE_HEADER:
            raise StudyError(f"{path} is not an MLflow store: it is not a SQLite file")
    elif not create:
        raise StudyError(
            f"no MLflow store at {path}: run a study first (bitfront run STUDY), or name another "
            f"store with {URI_VARIABLE}"
        )
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise StudyError(f"cannot write MLflow's store {path}: {error.strerror}") from error
