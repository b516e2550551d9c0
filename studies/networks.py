"""The trained networks of a study, a file each, named by what is in it."""

import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from ..spaces import StudyError

NETWORKS_FOLDER = "networks"

_SUFFIX = ".safetensors"
_DIGEST = re.compile(r"[0-9a-f]{16,64}")


class NetworkFiles:
    """The folder of trained networks; one process writes.

    Args:
        folder: The study's folder; theirs is made in it when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / NETWORKS_FOLDER

    def get(self, digest: str) -> bytes | None:
        """Return what was put under a digest; None if it is not there or cannot be read."""
        try:
            return self._path(digest).read_bytes()
        except (OSError, StudyError):
            return None

    def __contains__(self, digest: str) -> bool:
        """Return whether there is a network of that digest."""
        return self._path(digest).is_file()

    def put(self, digest: str, data: bytes) -> None:
        """Keep a network, whole or not at all.

        Raises:
            StudyError: If the digest is none, or the file cannot be written.
        """
        path = self._path(digest)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(exist_ok=True)
            try:
                partial.write_bytes(data)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StudyError(
                f"cannot keep a trained network in {self._folder}: {error.strerror}; make room "
                f"there, or make it writable, and run the study again: it goes on from here"
            ) from error

    def delete(self, digests: Iterable[str]) -> None:
        """Delete networks, as far as they are there."""
        for digest in digests:
            with suppress(OSError):  # a network too many does no harm
                self._path(digest).unlink()

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete all networks but these, and what is left of interrupted writes."""
        kept = {self._path(digest) for digest in digests}
        for path in self._folder.glob(f"*{_SUFFIX}*"):
            if path not in kept:
                with suppress(OSError):
                    path.unlink()
        with suppress(OSError):  # there are networks left
            self._folder.rmdir()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise StudyError(
                f"the digest of a trained network is hexadecimal digits, got {digest!r}"
            )
        return self._folder / f"{digest}{_SUFFIX}"
