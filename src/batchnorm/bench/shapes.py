"""The batch norms of known networks, generated from their published architecture."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["NETWORKS", "Site", "sites"]

IMAGES = 16  # a batch that 224x224 training on a CPU can afford


@dataclass(frozen=True)
class Site:
    """One batch norm of a network: the shape of its input, and what follows it in the same breath."""

    network: str
    shape: tuple[int, ...]
    act: str | None
    residual: bool = False


def sites(network: str, images: int = IMAGES) -> list[Site]:
    """The batch norms of `network`, in the order of its forward.

    Args:
        network: one of `NETWORKS`.
        images: batch size N of the image networks; LeNet and the tables have their own.

    Example:
        >>> len(sites("ResNet-18")), sites("ResNet-18")[0].shape
        (20, (16, 64, 112, 112))
    """
    return list(NETWORKS[network](images))


def _resnet(name: str, blocks: tuple[int, ...], expansion: int, images: int) -> Iterator[Site]:
    """He et al. 2015, arXiv:1512.03385, table 1; the stride stands in the 3x3 convolution, as is usual now."""
    yield Site(name, (images, 64, 112, 112), "relu")
    size, features = 56, 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            if expansion > 1:
                yield Site(name, (images, width, size, size), "relu")
            size //= stride
            yield Site(name, (images, width, size, size), "relu")
            last = (images, width * expansion, size, size)
            if features != width * expansion:
                yield Site(name, last, None)
                features = width * expansion
            yield Site(name, last, "relu", residual=True)


def _resnet18(images: int) -> Iterator[Site]:
    return _resnet("ResNet-18", (2, 2, 2, 2), 1, images)


def _resnet50(images: int) -> Iterator[Site]:
    return _resnet("ResNet-50", (3, 4, 6, 3), 4, images)


# Columns t, c, n, s of table 2: expansion, channels, repetitions, first stride.
MOBILENET_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
# The same columns of table 1.
EFFICIENTNET_B0 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 40, 2, 2), (6, 80, 3, 2), (6, 112, 3, 1), (6, 192, 4, 2), (6, 320, 1, 1),
)  # fmt: skip


def _inverted_residuals(
    name: str, table: tuple[tuple[int, int, int, int], ...], act: str, images: int
) -> Iterator[Site]:
    """Sandler et al. 2018, arXiv:1801.04381, table 2, and Tan and Le 2019, arXiv:1905.11946, table 1."""
    size, features = 112, 32
    yield Site(name, (images, features, size, size), act)
    for expansion, channels, count, first_stride in table:
        for block in range(count):
            hidden, stride = features * expansion, 1 if block else first_stride
            if expansion > 1:
                yield Site(name, (images, hidden, size, size), act)
            size //= stride
            yield Site(name, (images, hidden, size, size), act)
            yield Site(name, (images, channels, size, size), None, residual=block > 0)
            features = channels
    yield Site(name, (images, 1280, size, size), act)


def _mobilenet_v2(images: int) -> Iterator[Site]:
    return _inverted_residuals("MobileNetV2", MOBILENET_V2, "relu6", images)


def _efficientnet_b0(images: int) -> Iterator[Site]:
    return _inverted_residuals("EfficientNet-B0", EFFICIENTNET_B0, "silu", images)


def _lenet(_: int) -> Iterator[Site]:
    """LeCun et al. 1998, figure 2, on 28x28 images with a norm in front of every activation."""
    for features in ((6, 28, 28), (16, 10, 10), (120,), (84,)):
        yield Site("LeNet", (64, *features), "relu")


def _tabular(_: int) -> Iterator[Site]:
    for shape in ((256, 84), (1024, 256), (8192, 64)):
        yield Site("tabular", shape, "relu")


def _small(_: int) -> Iterator[Site]:
    yield Site("small", (64, 16, 8, 8), "relu")


NETWORKS = {
    "ResNet-18": _resnet18,
    "ResNet-50": _resnet50,
    "MobileNetV2": _mobilenet_v2,
    "EfficientNet-B0": _efficientnet_b0,
    "LeNet": _lenet,
    "tabular": _tabular,
    "small": _small,
}
