"""Residual networks for 32x32 images.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2
(resnet20 to resnet56) and table 1 (resnet18, here with the usual stem for small images).
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

Shortcut = Callable[[int, int, int], nn.Module]


class SubsampleAndPad(nn.Module):
    """Option A of the paper: every ``stride``-th pixel, and zeros for the new channels.

    The new channels stand half before and half behind the old ones.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (channels_out - channels_in) // 2
        self.behind = channels_out - channels_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[n, channels_out, ceil(h / stride), ceil(w / stride)]``."""
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, (0, 0, 0, 0, self.before, self.behind))


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option B of the paper: a 1x1 convolution with batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: Stride of the first convolution.
        shortcut: Makes the shortcut where the shape changes; it is the identity elsewhere.
        final_relu: Whether a ReLU follows the addition.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, shortcut: Shortcut, final_relu: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else shortcut(channels_in, channels_out, stride)
        self.relu = nn.ReLU()
        self.final = nn.ReLU() if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, ``[n, channels_out, h / stride, w / stride]``."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.final(y + self.shortcut(x))
        return out


class SmallImageResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, average pooling and a linear layer.

    Args:
        classes: Outputs.
        input_shape: Channels, height and width of an image.
        stem: Channels after the first convolution.
        widths: Channels of the stages; all but the first halve the resolution.
        blocks: Blocks of every stage.
        shortcut: How shapes are matched where they change.
        relu_after: ``block`` (the paper) or ``stage``: where the ReLU behind additions stands.
        pooled: Side of the map after pooling; the linear layer sees ``pooled ** 2`` positions.
    """

    def __init__(
        self,
        classes: int,
        input_shape: tuple[int, int, int],
        *,
        stem: int,
        widths: Sequence[int],
        blocks: int,
        shortcut: Shortcut,
        relu_after: str = "block",
        pooled: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.stages = len(widths)
        channels = stem
        for index, width in enumerate(widths):
            strides = [1 if index == 0 else 2] + [1] * (blocks - 1)
            stage = nn.Sequential()
            for stride in strides:
                stage.append(BasicBlock(channels, width, stride, shortcut, relu_after == "block"))
                channels = width
            setattr(self, f"layer{index + 1}", stage)
        self.stage_end = nn.ReLU() if relu_after == "stage" else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.linear = nn.Linear(channels * pooled**2, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` for images ``[n, channels, height, width]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        for index in range(self.stages):
            x = self.stage_end(self.get_submodule(f"layer{index + 1}")(x))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def _option_a(classes: int, input_shape: tuple[int, int, int], blocks: int) -> SmallImageResNet:
    return SmallImageResNet(
        classes,
        input_shape,
        stem=16,
        widths=(16, 32, 64),
        blocks=blocks,
        shortcut=SubsampleAndPad,
    )


def resnet20(classes: int, input_shape: tuple[int, int, int]) -> SmallImageResNet:
    """Build the paper's ResNet-20 for CIFAR: 3 stages of 3 blocks, shortcut option A."""
    return _option_a(classes, input_shape, blocks=3)


def resnet32(classes: int, input_shape: tuple[int, int, int]) -> SmallImageResNet:
    """Build the paper's ResNet-32 for CIFAR: 3 stages of 5 blocks, shortcut option A."""
    return _option_a(classes, input_shape, blocks=5)


def resnet44(classes: int, input_shape: tuple[int, int, int]) -> SmallImageResNet:
    """Build the paper's ResNet-44 for CIFAR: 3 stages of 7 blocks, shortcut option A."""
    return _option_a(classes, input_shape, blocks=7)


def resnet56(classes: int, input_shape: tuple[int, int, int]) -> SmallImageResNet:
    """Build the paper's ResNet-56 for CIFAR: 3 stages of 9 blocks, shortcut option A."""
    return _option_a(classes, input_shape, blocks=9)


def resnet20s_wide(classes: int, input_shape: tuple[int, int, int]) -> SmallImageResNet:
    """Build the ResNet-20 of arXiv:1912.10850: a wide stem, and one ReLU per stage.

    Its blocks have no ReLU behind the addition, its shortcuts are projections, and its linear
    layer sees 2x2 positions.
    """
    return SmallImageResNet(
        classes,
        input_shape,
        stem=64,
        widths=(16, 32, 64),
        blocks=3,
        shortcut=projection,
        relu_after="stage",
        pooled=2,
    )


def resnet18(classes: int, input_shape: tuple[int, int, int]) -> SmallImageResNet:
    """Build ResNet-18 with a stem for small images: 3x3 convolution, stride 1, no pooling."""
    return SmallImageResNet(
        classes,
        input_shape,
        stem=64,
        widths=(64, 128, 256, 512),
        blocks=2,
        shortcut=projection,
    )
