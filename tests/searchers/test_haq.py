from bitfront.searchers import Haq
from bitfront.searchers.testing import SearcherConformance


class TestHaq(SearcherConformance):
    make = Haq
