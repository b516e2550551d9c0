"""A regression that learns which widths, and which pairs of widths, do more or less harm together.

The value of an allocation is modelled as a given trend plus a Gaussian process over its choices.
With s the share of choices that two allocations have in common, the kernel is a mixture of s and
s^2: ridge regression on indicators of every choice and of every pair of choices, in the form whose
cost does not grow with their number (C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for
Machine Learning", 2006, section 2.1.2 and chapter 5).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Choices = npt.NDArray[np.integer]

_PAIR_SHARES = (0.1, 0.5, 0.9)
"""Candidates for the share of the variance that is put down to pairs."""

_SIGNALS = 10.0 ** np.arange(-2.0, 1.01, 0.25)
"""Candidates for the variance of the process over that of the residuals."""

_NOISES = 10.0 ** np.arange(-4.0, 0.01, 0.5)
"""Candidates for the variance of the noise over that of the residuals."""


@dataclass(frozen=True)
class Surrogate:
    """What was learned from some allocations.

    Attributes:
        choices: ``n x v`` choices of the allocations it was fitted to.
        trend: Slope and intercept of the trend.
        pair_share: Share of the process's variance put down to pairs of choices.
        signal: Variance of the process.
        noise: Variance of the noise.
        explained: Share of the variance of the values that the trend explains.
    """

    choices: Choices
    trend: tuple[float, float]
    pair_share: float
    signal: float
    noise: float
    explained: float
    _solved: Floats
    _inverse: Floats

    def predict(self, choices: Choices, prior: Floats) -> tuple[Floats, Floats]:
        """Return means and standard deviations of ``m`` allocations.

        Args:
            choices: ``m x v`` choices.
            prior: ``m`` values of what the trend is a line of.
        """
        cross = self.signal * _kernel(choices, self.choices, self.pair_share)
        mean = self.trend[0] * prior + self.trend[1] + cross @ self._solved
        explained = np.einsum("ij,ij->i", cross @ self._inverse, cross)
        return mean, np.sqrt(np.maximum(self.signal - explained, 1e-12))


def fit(choices: Choices, prior: Floats, values: Floats) -> Surrogate:
    """Fit a surrogate; the hyper-parameters are those with the greatest marginal likelihood.

    Args:
        choices: ``n x v`` indices of choices, n >= 2.
        prior: ``n`` values that the allocations are expected to follow along a line.
        values: ``n`` values to be learned.
    """
    slope, intercept = _line(prior, values)
    residual = values - (slope * prior + intercept)
    spread = float(values.var()) or 1.0
    scale = float(residual.var()) or 1e-12
    best: tuple[float, float, float, float] | None = None
    for share in _PAIR_SHARES:
        eigenvalues, vectors = np.linalg.eigh(_kernel(choices, choices, share))
        projected = (vectors.T @ residual) ** 2
        signals, noises = np.meshgrid(_SIGNALS * scale, _NOISES * scale, indexing="ij")
        variances = signals[..., None] * np.maximum(eigenvalues, 0) + noises[..., None]
        likelihood = -0.5 * (np.log(variances) + projected / variances).sum(axis=-1)
        i, j = np.unravel_index(int(np.argmax(likelihood)), likelihood.shape)
        found = (float(likelihood[i, j]), share, float(signals[i, j]), float(noises[i, j]))
        best = found if best is None or found > best else best
    assert best is not None
    _, share, signal, noise = best
    covariance = signal * _kernel(choices, choices, share) + noise * np.eye(len(values))
    inverse: Floats = np.linalg.inv(covariance).astype(np.float64)
    return Surrogate(
        choices,
        (slope, intercept),
        share,
        signal,
        noise,
        1.0 - float(residual.var()) / spread,
        inverse @ residual,
        inverse,
    )


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    if np.ptp(x) == 0:
        return 0.0, float(y.mean())
    slope, intercept = np.polyfit(x, y, 1)
    return max(float(slope), 0.0), float(intercept if slope > 0 else y.mean())


def _kernel(a: Choices, b: Choices, pair_share: float) -> Floats:
    if not a.shape[1]:
        return np.ones((len(a), len(b)))
    shared: Floats = np.mean(a[:, None, :] == b[None, :, :], axis=2, dtype=np.float64)
    return (1 - pair_share) * shared + pair_share * shared**2
