"""The fast profile of a study: what its section ``fast`` puts in place of the rest.

A study that takes hours can say in the same file what a first look at it leaves out: fewer epochs,
a part of the images, one seed. Mappings are merged key by key, null in place of one takes it away,
and everything else is replaced whole. The result is a study of its own, with a name, a folder and
an experiment of its own.
"""

from collections.abc import Mapping
from typing import Any

from ..spaces import StudyError
from .faults import InvalidStudyError, fault_at
from .yaml_lines import Document, Place, describe

FAST = "fast"
"""The section, and what the name of the study ends in."""


def split(document: Document) -> tuple[Document, Document | None]:
    """Return a study without its fast profile, and the study that the profile makes of it.

    Args:
        document: What the file says.

    Returns:
        The second is None if there is no profile.

    Raises:
        InvalidStudyError: If the section is no mapping.
    """
    if FAST not in document.value:
        return document, None
    profile = document.value[FAST]
    if not isinstance(profile, Mapping):
        said = f"expected a mapping of keys to replace, got {describe(profile)}"
        raise InvalidStudyError([fault_at(document, (FAST,), said)])
    plain = Document(
        {key: value for key, value in document.value.items() if key != FAST},
        {place: origin for place, origin in document.origins.items() if place[:1] != (FAST,)},
        document.folder,
    )
    origins = dict(plain.origins)
    value = _merged(plain.value, profile, (), document, origins)
    return plain, _named(Document(value, origins, document.folder), profile, document)


def fast_version(document: Document, name: str) -> Document:
    """Return the study that the fast profile makes of a study.

    Args:
        document: What the file says.
        name: What to call the file.

    Raises:
        StudyError: If there is no such section.
        InvalidStudyError: If it is no mapping.
    """
    fast = split(document)[1]
    if fast is None:
        raise StudyError(
            f"{name}: has no section '{FAST}' that says what --{FAST} replaces; add one, or leave "
            f"--{FAST} away"
        )
    return fast


def _merged(
    value: Mapping[str, Any],
    profile: Mapping[str, Any],
    place: Place,
    document: Document,
    origins: dict[Place, str],
) -> dict[str, Any]:
    """Return a mapping with what a profile replaces, and change the origins accordingly."""
    merged = dict(value)
    for key, new in profile.items():
        at = (*place, key)
        if isinstance(new, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], new, at, document, origins)
            continue
        if new is None and isinstance(merged.get(key), Mapping):
            del merged[key]
        else:
            merged[key] = new
        inside = len(at)
        for known in [known for known in origins if known[:inside] == at]:
            del origins[known]
        for known, origin in document.origins.items():
            if key in merged and known[: inside + 1] == (FAST, *at):
                origins[known[1:]] = origin
    return merged


def _named(fast: Document, profile: Mapping[str, Any], document: Document) -> Document:
    """Return a study whose names of folder and experiment are its own."""
    origin = document.where((FAST,))
    for place in (("study",), ("tracking", "experiment")):
        given, said = (_section(mapping, place[:-1]) for mapping in (fast.value, profile))
        name = given.get(place[-1])
        if isinstance(name, str) and place[-1] not in said:
            fast = fast.replaced(place, f"{name}-{FAST}", origin)
    return fast


def _section(mapping: Mapping[str, Any], place: tuple[str, ...]) -> Mapping[str, Any]:
    for key in place:
        inside = mapping.get(key)
        mapping = inside if isinstance(inside, Mapping) else {}
    return mapping
