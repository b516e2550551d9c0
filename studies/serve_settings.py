"""What serve-check serves, and how; checked before anything heavy is loaded."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..models.runtime.guardrail import GuardSettings
from ..spaces import StudyError
from ..spaces.dynamic import check_thresholds

PolicyName = Literal["fixed", "confidence"]

DEFAULT_MEMBERS = (4, 6, 8)

_MOST_WITH_THRESHOLDS = 3
"""Levels for which there are thresholds if nobody sets any."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is served, and how.

    Attributes:
        members: Uniform widths of the levels, low first; 4, 6 and 8 if None, or what the space has.
        policy: Who answers an input: the level in force, or a higher one where it is not sure.
        thresholds: Of the confidence, one fewer than levels; 0.9 and 0.6 if None.
        guard: What is watched.
        fit_window: Whether the guardrail's window is shortened to what a short stream can fill, and
            inputs are checked more often where that is not enough.
        noise: Standard deviation of normal noise on the inputs, of the range of a pixel.
        noise_from: The first input with noise.
        noise_to: The first one without again; None for none.
        limit: Most inputs.
        repeat: How often the test split is served, one time after the other.
        set_up: Images that are set aside for the set-up; a quarter, but at most 1,000, if None.
        batch_size: Inputs that the controller is given at a time.
        audit: The audit log's file.
        seed: Of the order of images, and of the noise.
    """

    members: tuple[int, ...] | None = None
    policy: PolicyName = "fixed"
    thresholds: tuple[float, ...] | None = None
    guard: GuardSettings = field(default_factory=GuardSettings)
    fit_window: bool = False
    noise: float = 0.0
    noise_from: int = 0
    noise_to: int | None = None
    limit: int | None = None
    repeat: int = 1
    set_up: int | None = None
    batch_size: int = 64
    audit: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in get_args(PolicyName):
            raise StudyError(f"--policy is fixed or confidence, got {self.policy!r}")
        if not self.noise and (self.noise_from or self.noise_to is not None):
            raise StudyError("--noise-from and --noise-to say when there is --noise, and it is 0")
        if self.members is not None and len(self.members) < 2:
            raise StudyError(f"--members names at least 2 widths, got {list(self.members)}")
        self._check_thresholds()
        if not 0 <= self.noise < math.inf:
            raise StudyError(f"--noise is a standard deviation, at least 0, got {self.noise}")
        if self.noise_to is not None and self.noise_to <= self.noise_from:
            raise StudyError(
                f"the noise must end after it begins, got --noise-from {self.noise_from} and "
                f"--noise-to {self.noise_to}"
            )

    def _check_thresholds(self) -> None:
        levels = None if self.members is None else len(self.members)
        if self.thresholds is not None:
            if self.policy != "confidence":
                raise StudyError("--thresholds are of --policy confidence")
            check_thresholds(self.thresholds, levels or len(self.thresholds) + 1)
        elif self.policy == "confidence" and levels and levels > _MOST_WITH_THRESHOLDS:
            raise StudyError(
                f"there are thresholds for 2 or 3 levels, and --members names {levels}: set "
                f"--thresholds, {levels - 1} that fall"
            )
