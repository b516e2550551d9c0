"""Reconstruction of one allocation, block by block: BRECQ and QDrop.

Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
arXiv:2102.05426; Wei et al., "QDrop: Randomly Dropping Quantization for Extremely Low-bit
Post-Training Quantization", arXiv:2203.05740.
"""

from .network import BlockReport, Report, reconstruct

__all__ = ["BlockReport", "Report", "reconstruct"]
