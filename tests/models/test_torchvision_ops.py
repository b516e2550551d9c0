import subprocess
import sys
from pathlib import Path

import pytest

FAKE_TORCHVISION = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return scores

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return scores
"""


def run(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(path)!r}); {code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize("declared", [False, True])
def test_torchvision_imports_without_its_compiled_operators(tmp_path: Path, declared: bool) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(FAKE_TORCHVISION)
    (package / "_C.so").write_bytes(b"compiled for another torch")
    first = (
        "from bitfront.models.torchvision_ops import declare_missing_operators as declare;"
        "declare(); declare();"
        if declared
        else ""
    )
    result = run(first + "import torchvision; print(torchvision.__file__)", tmp_path)
    if declared:
        assert str(package) in result.stdout, result.stderr
    else:
        assert "operator torchvision::nms does not exist" in result.stderr
