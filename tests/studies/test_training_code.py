"""Which code a training belongs to."""

import shutil
import sys

import pytest

from bitfront.searchers import Budget, Eqat, build
from bitfront.searchers.synthetic import tabular_problem
from bitfront.spaces import DEFAULT_OBJECTIVES
from bitfront.studies import training_code as module
from bitfront.studies.sections import StrategySpec
from bitfront.studies.training_code import SHARED, training_code
from bitfront.studies.trials import Ground, Trial

PROBLEM = tabular_problem()
GROUND = Ground(
    PROBLEM.space,
    PROBLEM.pricing,
    DEFAULT_OBJECTIVES,
    PROBLEM._evaluator([PROBLEM.space.uniform(8)])[0],
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the files that training is read from."""
    root = module._PACKAGE
    for pattern in SHARED:
        for path in root.glob(pattern):
            copy = tmp_path / "package" / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "package")
    return tmp_path / "package"


def signature(name):
    return GROUND.signature(Trial(StrategySpec(name=name), Budget(40), 0))


def append(path, text="# changed\n"):
    path.write_text(path.read_text() + text)


def test_all_that_trains_is_there_to_be_read():
    for pattern in SHARED:
        assert list(module._PACKAGE.glob(pattern)), pattern


@pytest.mark.parametrize(
    "name", ["models/qat/trainer.py", "models/qat/ranges.py", "models/trained.py",
             "searchers/steering.py", "searchers/rounding.py", "spaces/rounding.py"],
)  # fmt: skip
def test_a_training_is_another_once_its_code_changed_and_a_search_is_not(package, name):
    trained, asked = signature("eqat"), signature("random")
    assert signature("eqat") == trained
    append(package / name)
    assert signature("eqat") != trained
    assert signature("random") == asked


def test_classes_that_a_strategy_inherits_from_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("family", "child"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "family.py").write_text(
        "from bitfront.searchers import Searcher\n"
        "class Base(Searcher):\n    trains = True\n    def search(self, problem): pass\n"
    )
    (tmp_path / "child.py").write_text("import family\nclass Child(family.Base): pass\n")
    before = signature("child:Child")
    append(tmp_path / "family.py")
    assert signature("child:Child") != before


def test_strategies_that_train_have_different_code():
    assert len({training_code(Eqat), training_code(type(build("lsq")))}) == 2
