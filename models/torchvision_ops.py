"""Lets torchvision and timm import beside a torch build that torchvision was not compiled for.

A CPU-only torch with the registry's torchvision wheel is such a pair: torchvision's compiled
operators cannot load, and its import then fails with "operator torchvision::nms does not exist",
because it registers shape functions for two operators that nobody declared. bitfront uses none of
the compiled operators, so declaring the two schemas is all that is needed. Every function of the
project that imports torchvision or timm calls `declare_missing_operators` first.
"""

import functools
import importlib.machinery
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def declare_missing_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision's import expects, if its own cannot be loaded.

    Cheap and without effect when called again, and when torchvision matches torch.

    Returns:
        The library that holds the declarations, kept alive by the cache of this function, or
        None if none were needed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _loads(folder: Path) -> bool:
    """Whether torchvision's compiled operators can be loaded from its package folder."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (extension := folder / f"_C{suffix}").exists():
            try:
                torch.ops.load_library(extension)  # type: ignore[no-untyped-call]
            except OSError:
                return False
            return True
    return False
