"""What both strategies have in common that let selectors choose the widths of channels."""

from dataclasses import dataclass
from typing import ClassVar

from ..models.dynamic.settings import SelectorSettings
from ..spaces import BitSpace
from .base import Searcher
from .learnprec_plan import require_selector_prices
from .pricing import Pricing
from .widths import check_offered


@dataclass(frozen=True, kw_only=True)
class SelectorSearcher(SelectorSettings, Searcher):
    """A strategy whose channels choose from `widths`; the settings are those of selectors."""

    paper: ClassVar[str] = "Nivetha et al., LearnPrec"
    needs_model: ClassVar[bool] = True
    follows_input: ClassVar[bool] = True

    def check(self, space: BitSpace) -> None:
        """Check that the space offers the widths.

        Raises:
            SpaceError: If not.
        """
        super().check(space)
        check_offered(space, self.widths, "widths")

    def check_prices(self, space: BitSpace, pricing: Pricing) -> None:
        """Check that the study's table can price selectors.

        Raises:
            EnergyTableError: If it prices the layers of one network only.
        """
        super().check_prices(space, pricing)
        require_selector_prices(pricing)
