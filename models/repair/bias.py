"""Bias correction: the mean error of quantized weights, taken off the bias.

Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and
Bias Correction" (arXiv:1906.04721), section 4.2, with the mean of the input from calibration images
instead of batch norms.
"""

from torch import Tensor


def corrected_bias(weight: Tensor, points: Tensor, bias: Tensor | None, mean: Tensor) -> Tensor:
    """Return the bias with which quantized weights give the mean output of the float ones.

    Args:
        weight: ``out x entries``; rows of a group follow each other.
        points: The quantized weights.
        bias: ``[out]``, or None.
        mean: ``groups x entries``: of the vectors that the rows are multiplied by. That of the
            patches of a convolution, padding included, makes the correction exact.

    Returns:
        ``[out]``.
    """
    error = (weight - points).double().view(len(mean), -1, weight.shape[1])
    shift = (error @ mean.double()[:, :, None]).flatten()
    return (shift if bias is None else shift + bias.double()).to(weight.dtype)
