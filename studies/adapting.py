"""What of a study is adapted before it is measured, and whether its network can be."""

from torch import nn

from ..models.config import AdaptationConfig
from ..models.fold import has_batch_norms
from ..models.splits import SplitIndices
from ..spaces import FLOAT_BITS, BitAllocation, StudyError
from .requests import Request


def is_adapted(request: Request, config: AdaptationConfig) -> bool:
    """Whether the network is adapted to an allocation before that is measured.

    The float network never is: adaptation is for what quantization changes. Nor is one that was
    trained for its allocation.
    """
    if config.method == "none" or request.network or _is_float(request.allocation):
        return False
    return config.when == "evaluations" or request.split == "test"


def images_passed(config: AdaptationConfig, images: int, estimated: int) -> tuple[int, int]:
    """Return how many images adapting to one allocation passes forward, and backward.

    Args:
        config: What is done.
        images: What it is done with.
        estimated: Images that fine-tuning takes the statistics of batch norms on, twice: first of
            the float network, in the end of the one it trained.

    Examples:
        >>> fine_tune = AdaptationConfig(method="fine-tune", epochs=2, batch_size=64)
        >>> images_passed(fine_tune, images=100, estimated=32)
        (192, 128)
    """
    if config.method == "none":
        return 0, 0
    if config.method == "batch-norm":
        return images, 0
    batch_size = min(config.batch_size, images)
    passed = config.epochs * (images // batch_size) * batch_size
    return passed + 2 * estimated, passed


def adaptation_notes(
    config: AdaptationConfig, images: int, *, trains: bool = False, follows_input: bool = False
) -> tuple[str, ...]:
    """Return what a reader of results should know of adaptation.

    Args:
        config: What is done.
        images: What it is done with.
        trains: Whether a strategy trains the network; then some allocations are not adapted.
        follows_input: Whether one hands over networks that choose their widths, which are not.
    """
    if config.method == "none":
        return ()
    when = "every evaluation" if config.when == "evaluations" else "finalists were tested"
    what = (
        f"batch norms were estimated again on {images:,} calibration images"
        if config.method == "batch-norm"
        else f"the network was fine-tuned on {images:,} training images, epochs: {config.epochs}"
    )
    handed = [
        *(["that a strategy trained"] if trains else []),
        *(["whose widths follow the input"] if follows_input else []),
    ]
    but = f"; networks {' or '.join(handed)} were measured as they are" if handed else ""
    return (f"before {when} {what}{but}",)


def require_adaptable(config: AdaptationConfig, model: nn.Module, indices: SplitIndices) -> None:
    """Check that a network can be adapted as a study asks.

    Args:
        config: What is asked.
        model: The network.
        indices: The images there are.

    Raises:
        StudyError: If it has no batch norms to estimate again, or there are too few images.
    """
    if config.method == "none":
        return
    if config.method == "batch-norm" and not has_batch_norms(model):
        raise StudyError(
            "the network has no batch norms to estimate again; choose method fine-tune or none"
        )
    split = "calibration" if config.method == "batch-norm" else "train"
    available = len(getattr(indices, split))
    if config.images is not None and config.images > available:
        raise StudyError(
            f"{config.images} images were asked for, but the {split} split has {available}; "
            f"lower 'images', or leave it out to take all"
        )


def _is_float(allocation: BitAllocation) -> bool:
    operands = (*allocation.weights, *allocation.activations)
    return all(isinstance(bits, int) and bits == FLOAT_BITS for bits in operands)
