"""How much a network suffers when one operand of one layer alone is quantized.

Scores are the ground of strategies that choose widths without measuring candidates; see
docs/sensitivity.md for what each one is, and what it costs.
"""

from .compute import compute_scores
from .layer_output import layer_output_l2

__all__ = ["compute_scores", "layer_output_l2"]
