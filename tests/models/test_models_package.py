import subprocess
import sys

import bitfront.models


def test_the_package_is_imported_without_torch() -> None:
    code = (
        "import sys; from bitfront.models import DataConfig, TrainConfig, model_names, data_names;"
        "DataConfig(); TrainConfig(); model_names(); data_names();"
        "heavy = {'torch', 'torchvision', 'timm', 'sklearn', 'safetensors'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_everything_that_is_promised_is_there() -> None:
    for name in bitfront.models.__all__:
        assert getattr(bitfront.models, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(bitfront.models, "nonsense")
