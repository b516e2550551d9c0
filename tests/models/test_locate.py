from pathlib import Path

import pytest

from bitfront.models import DataConfig, data_folder, resolve_checkpoint
from bitfront.spaces import DataError, ModelError


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITFRONT_DATA", raising=False)
    monkeypatch.delenv("BITFRONT_WEIGHTS", raising=False)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_checkpoint_is_looked_for_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITFRONT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BITFRONT_WEIGHTS", str(tmp_path / "mine"))
    beside_data = touch(tmp_path / "weights" / "a.pt")
    assert resolve_checkpoint("a.pt", tmp_path / "study") == beside_data
    weights = touch(tmp_path / "mine" / "a.pt")
    assert resolve_checkpoint("a.pt", tmp_path / "study") == weights
    study = touch(tmp_path / "study" / "a.pt")
    assert resolve_checkpoint("a.pt", tmp_path / "study") == study
    assert resolve_checkpoint(str(weights), tmp_path / "study") == weights


def test_a_checkpoint_that_is_nowhere_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITFRONT_DATA", str(tmp_path / "data"))
    with pytest.raises(ModelError, match=r"study/a\.pt'.*weights/a\.pt'; set BITFRONT_WEIGHTS"):
        resolve_checkpoint("a.pt", tmp_path / "study")


def test_digits_need_no_folder() -> None:
    assert data_folder(DataConfig(name="digits")) is None


def test_a_data_folder_is_looked_for_beside_the_study_and_in_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(name="image-folder", root="photos")
    shared = tmp_path / "data" / "photos"
    shared.mkdir(parents=True)
    monkeypatch.setenv("BITFRONT_DATA", str(tmp_path / "data"))
    assert data_folder(config, tmp_path) == shared
    (tmp_path / "photos").mkdir()
    assert data_folder(config, tmp_path) == tmp_path / "photos"
    assert data_folder(DataConfig(name="mnist")) == tmp_path / "data"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="mnist"), r"where is 'mnist'\? set data\.root or .*BITFRONT_DATA"),
        (DataConfig(name="mnist", root="nowhere"), r"looked for '.*/nowhere'; set data\.root or"),
    ],
)
def test_a_folder_that_is_nowhere_says_what_to_do(
    tmp_path: Path, config: DataConfig, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data_folder(config, tmp_path)


def test_a_folder_of_images_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"image-folder needs data\.root"):
        data_folder(DataConfig(name="image-folder"))
