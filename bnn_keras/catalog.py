"""What exists, as plain rows: networks, schemes, optimizers, data sets. Needs no TensorFlow.

A `builder` names the function that makes the thing, "module:function"; only `bnn_keras.build` resolves it.
A new network, scheme, optimizer or data set is one row here and one function there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from bnn_keras.errors import BnnError, unknown


@dataclasses.dataclass(frozen=True)
class Network:
    """A topology. `builder` is `f(scheme, input_shape, num_classes) -> tf.keras.Model`."""

    name: str
    builder: str
    description: str
    input_shape: tuple[int, int, int]
    classes: int
    scheme: str
    bits: str
    source: str


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way of binarizing. `bits` lists the weight/activation widths it offers, the first is its own paper's."""

    name: str
    builder: str
    description: str
    bits: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer. `defaults` are the hyper-parameters an experiment may leave out, and the only ones it may set."""

    name: str
    builder: str
    description: str
    defaults: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A TFDS image classification data set. `module` registers builders that TFDS itself does not have."""

    name: str
    description: str
    input_shape: tuple[int, int, int]
    classes: int
    train: str
    test: str
    train_examples: int
    test_examples: int
    module: str | None = None


Row = TypeVar("Row", Network, Scheme, Optimizer, Dataset)


def _table(*rows: Row) -> dict[str, Row]:
    return {row.name: row for row in rows}


NETWORKS = _table(
    Network(
        name="lenet5",
        builder="bnn_keras.networks.lenet:lenet5",
        description="XNOR-Net's LeNet-5: two convolutions, two dense layers; the middle two binary",
        input_shape=(28, 28, 1),
        classes=10,
        scheme="xnor",
        bits="1/1",
        source="XNOR-Net-PyTorch, MNIST/models/LeNet_5.py",
    ),
)

SCHEMES = _table(
    Scheme(
        name="xnor",
        builder="bnn_keras.schemes:xnor",
        description="XNOR-Net: sign scaled by the kernel's mean magnitude, centred and clipped latent weights",
        bits=("1/1",),
        source="Rastegari et al. 2016, arXiv:1603.05279; XNOR-Net-PyTorch, MNIST/util.py",
    ),
)

OPTIMIZERS = _table(
    Optimizer(
        name="adam",
        builder="bnn_keras.optimizers:adam",
        description="Adam as Keras has it: epsilon before bias correction",
        defaults={"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    ),
    Optimizer(
        name="adam_torch",
        builder="bnn_keras.optimizers:adam_torch",
        description="Adam as PyTorch has it: epsilon after bias correction",
        defaults={"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    ),
)

DATASETS = _table(
    Dataset(
        name="mnist_5k",
        description="5,000 real MNIST digits that ship with the package (4,000 train, 1,000 test)",
        input_shape=(28, 28, 1),
        classes=10,
        train="train",
        test="test",
        train_examples=4_000,
        test_examples=1_000,
        module="bnn_keras.data.mnist_5k",
    ),
    Dataset(
        name="mnist",
        description="MNIST, handwritten digits",
        input_shape=(28, 28, 1),
        classes=10,
        train="train",
        test="test",
        train_examples=60_000,
        test_examples=10_000,
    ),
    Dataset(
        name="fashion_mnist",
        description="Fashion-MNIST, photographs of clothes",
        input_shape=(28, 28, 1),
        classes=10,
        train="train",
        test="test",
        train_examples=60_000,
        test_examples=10_000,
    ),
)

TABLES: dict[str, Mapping[str, Any]] = {
    "network": NETWORKS,
    "scheme": SCHEMES,
    "optimizer": OPTIMIZERS,
    "data set": DATASETS,
}


def find(kind: str, name: str) -> Any:
    """The row called `name` in the table of `kind` (a key of `TABLES`).

    Raises:
        BnnError: No row has that name; the message has the nearest one and all of them.
    """
    table = TABLES[kind]
    if name not in table:
        raise BnnError(unknown(kind, name, table))
    return table[name]
