import pytest

from bitfront.studies.canvas import DPI, file_name, new_figure, plain_text


def test_a_figure_has_the_pixels_asked_for(tmp_path):
    figure = new_figure(300, 150)
    figure.savefig(tmp_path / "empty.png")
    header = (tmp_path / "empty.png").read_bytes()[16:24]
    assert (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")) == (300, 150)
    assert figure.dpi == DPI


def test_labels_that_differ_have_names_that_differ():
    labels = ["haq", "haq v1.0", "haq/v1.0", "haq:v1.0", "../haq"]
    names = [file_name(label) for label in labels]
    assert names[0] == "haq"
    assert len(set(names)) == len(labels)
    assert not any(set(name) & set("/: ") for name in names)


@pytest.mark.parametrize(("text", "shown"), [("a_b", "a_b"), ("5$", r"5\$"), ("_b", " _b")])
def test_names_are_written_as_they_are(text, shown):
    assert plain_text(text) == shown
