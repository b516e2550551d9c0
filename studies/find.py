"""Where study files are: the ready ones by their names, all others by their paths."""

from pathlib import Path

from ..spaces import StudyError, nearest
from .yaml_lines import Document, read_yaml

LIBRARY = Path(__file__).parent / "library"
"""The folder of the ready studies."""


def library_studies() -> list[str]:
    """Return the names of the ready studies."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def shown_name(source: str | Path) -> str:
    """Return what messages call a study's file: a ready study's without its folder."""
    path = find_study(source)
    return path.name if path.parent == LIBRARY else str(source)


def read_study(source: str | Path) -> Document:
    """Read a study's file as it is, unchecked.

    Args:
        source: A path, or the name of a ready study.

    Raises:
        StudyError: If it cannot be found or read.
    """
    return read_yaml(find_study(source), shown_name(source))


def find_study(source: str | Path) -> Path:
    """Return the file of a study.

    Args:
        source: A path, or the name of a ready study.

    Raises:
        StudyError: If there is no such file and no such name.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in library_studies():
        return LIBRARY / f"{source}.yaml"
    what = "is a folder" if path.is_dir() else "no such file"
    raise StudyError(
        f"{source}: {what}, and no ready study has this name; "
        f"{nearest(path.stem, library_studies())}"
    )
