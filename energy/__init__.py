"""What an allocation costs: tables of hardware energy, and pricing with them."""

from .compare import Scores, score_under
from .dynamic import decision_cost, input_energies, selector_costs, usage_costs, usage_energy
from .model import Costs, EnergyModel
from .options import EnergyOptions
from .report import EnergyReport
from .schema import EnergyTable
from .size import bops, mean_activation_bits, mean_weight_bits, size_bytes
from .table import EnergyEvidenceWarning, load_table, options_from, table_names, variant_names
from .traffic import Item

__all__ = [
    "Costs",
    "EnergyEvidenceWarning",
    "EnergyModel",
    "EnergyOptions",
    "EnergyReport",
    "EnergyTable",
    "Item",
    "Scores",
    "bops",
    "decision_cost",
    "input_energies",
    "load_table",
    "mean_activation_bits",
    "mean_weight_bits",
    "options_from",
    "score_under",
    "selector_costs",
    "size_bytes",
    "table_names",
    "usage_costs",
    "usage_energy",
    "variant_names",
]
