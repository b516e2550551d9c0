"""The five-layer CNN of EQAT, for images from 8x8 to 32x32.

EQAT evaluates "a simple 5-layer CNN" on MNIST and CIFAR-10 (its section 4) and says no more of it.
Here the five layers are three 3x3 convolutions and two linear layers. The widths, the batch norm
and the pooling are our choice.
"""

from torch import Tensor, nn

from ..spaces import ModelError


class Cnn5(nn.Module):
    """Three convolutions with batch norm, the last two followed by 2x2 pooling, and two linears.

    Args:
        classes: Outputs.
        input_shape: Channels, height and width of an image; height and width divisible by 4.
        width: Channels of the first convolution; the others have twice and four times as many.
        hidden: Features between the two linear layers.

    Raises:
        ModelError: If the image cannot be halved twice.
    """

    def __init__(
        self, classes: int, input_shape: tuple[int, int, int], width: int = 16, hidden: int = 128
    ) -> None:
        super().__init__()
        channels, height, image_width = input_shape
        if height < 4 or image_width < 4 or height % 4 or image_width % 4:
            raise ModelError(
                f"cnn5 needs images whose sides are divisible by 4, got {height}x{image_width}"
            )
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(4 * width * (height // 4) * (image_width // 4), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` for images ``[n, channels, height, width]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.pool(self.relu(self.bn2(self.conv2(x))))
        x = self.pool(self.relu(self.bn3(self.conv3(x))))
        logits: Tensor = self.fc2(self.relu(self.fc1(x.flatten(1))))
        return logits


def cnn5(classes: int, input_shape: tuple[int, int, int], **settings: int) -> Cnn5:
    """Build EQAT's five-layer CNN; settings as of `Cnn5`."""
    return Cnn5(classes, input_shape, **settings)
