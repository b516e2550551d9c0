"""The folders at the root are the package: three guards that keep it whole."""

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import bitfront

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("spaces", "energy", "models", "searchers", "studies")
MODULES = sorted(
    module.name
    for folder in FOLDERS
    for module in pkgutil.walk_packages([str(ROOT / folder)], f"bitfront.{folder}.")
)


def test_every_package_folder_is_listed():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        "bitfront." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == found | {"bitfront"}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_beside_a_foreign_models_folder(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--no-deps",
            "--no-index",
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    # Dependencies are borrowed by path: installing them again would test pip, not the wheel.
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    borrowed = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    foreign = tmp_path / "work" / "models"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text(
        "raise RuntimeError('a foreign models folder was imported')"
    )
    script = tmp_path / "env" / "bin" / "bitfront"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for arguments in (["--version"], ["list", "tables"], ["validate", "quickstart"]):
        done = subprocess.run(
            [script, *arguments],
            cwd=foreign.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [python, "-c", "import bitfront.searchers; print(bitfront.__path__[0])"],
        cwd=foreign.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(tmp_path)


def test_the_version_is_stated_once():
    assert bitfront.__version__.count(".") == 2
