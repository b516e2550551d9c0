import pytest

from bitfront.spaces import StudyError
from bitfront.studies.networks import NETWORKS_FOLDER, NetworkFiles

A, B = "a" * 32, "b" * 32


@pytest.fixture
def files(tmp_path):
    return NetworkFiles(tmp_path)


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / NETWORKS_FOLDER).iterdir())


def test_what_is_put_is_found_by_another_and_a_later_one_takes_its_place(files, tmp_path):
    assert files.get(A) is None
    assert not (tmp_path / NETWORKS_FOLDER).exists()
    files.put(A, b"first")
    files.put(A, b"later")
    assert NetworkFiles(tmp_path).get(A) == b"later"
    assert names(tmp_path) == [f"{A}.safetensors"]


def test_all_but_those_needed_are_deleted_and_left_overs_of_writes_too(files, tmp_path):
    files.put(A, b"1")
    files.put(B, b"2")
    (tmp_path / NETWORKS_FOLDER / f".{A}.safetensors.7.partial").write_bytes(b"half")
    files.keep_only({B, "c" * 32})
    assert names(tmp_path) == [f"{B}.safetensors"]
    files.delete([B, A])
    files.keep_only(())
    assert not (tmp_path / NETWORKS_FOLDER).exists()
    files.keep_only(())  # and nothing more to do


def test_what_is_not_ours_stays(files, tmp_path):
    files.put(A, b"1")
    (tmp_path / NETWORKS_FOLDER / "README").write_text("mine")
    files.keep_only(())
    assert names(tmp_path) == ["README"]


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 32, "a" * 200, "ab\n" * 8])
def test_what_is_no_digest_names_no_file(files, digest):
    assert files.get(digest) is None
    with pytest.raises(StudyError, match="hexadecimal digits"):
        files.put(digest, b"1")


def test_a_folder_that_cannot_be_written_is_one_clear_error_and_leaves_nothing(files, tmp_path):
    (tmp_path / NETWORKS_FOLDER).write_text("in the way")
    with pytest.raises(StudyError, match=r"cannot keep a trained network in .*networks: .*exists"):
        files.put(A, b"1")
    assert files.get(A) is None
