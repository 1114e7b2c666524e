"""Models that ship with the package: cards, names, and the accuracy of each packed file."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from bnn_keras import catalog, predict, pretrained
from bnn_keras.data.mnist_5k import FILE
from bnn_keras.errors import BnnError
from bnn_keras.experiment import experiment_names
from bnn_keras.packed_reader import read_packed
from bnn_keras.pretrained import cards, find, locate, read_card
from bnn_keras.sources import Source

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
NAMES = list(cards())
CARD = next(iter(cards().values()))


def digits():
    with np.load(FILE) as arrays:
        return arrays["images"][4::5], arrays["labels"][4::5]


def clothes():
    def read(name, header):
        return np.frombuffer(gzip.decompress((FASHION_MNIST / name).read_bytes()), np.uint8, offset=header)

    if not FASHION_MNIST.exists():
        pytest.skip(f"no {FASHION_MNIST}")
    images = read("t10k-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    return images, read("t10k-labels-idx1-ubyte.gz", header=8)


TEST_IMAGES = {"mnist_5k": digits, "fashion_mnist": clothes}


def marks(card):
    return pytest.mark.slow if card.accuracy.images > 1000 else ()


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(card)) for name, card in cards().items()])
def test_accuracy_is_that_of_the_card(name):
    card = cards()[name]
    images, labels = TEST_IMAGES[card.dataset]()
    predicted = predict(name, images, batch_size=500).logits.argmax(axis=-1)
    assert len(labels) == card.accuracy.images
    # Rounding on another CPU changes signs of sums that are close to 0: in ResNet-20, the class of 1 image in 10,000.
    assert int((predicted == labels).sum()) == pytest.approx(card.accuracy.correct, abs=len(labels) / 1000)


@pytest.mark.parametrize("name", NAMES)
def test_card_is_that_of_the_file(name):
    card, row = cards()[name], catalog.find("dataset", cards()[name].dataset)
    experiment, content = Source.at(name).experiment, card.file.read_bytes()
    assert (card.bytes, card.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    chosen = {key: getattr(card, key) for key in ("network", "scheme", "bits", "dataset")}
    assert chosen.items() <= experiment.chosen.items()
    assert (card.experiment, card.seed, card.epochs) == (experiment.name, experiment.seed, experiment.epochs)
    assert (card.accuracy.split, card.accuracy.images) == (row.test, row.test_examples)
    assert (card.images.origin, card.images.licence) == (row.origin, row.licence)
    assert len(read_packed(card.file).labels) == row.classes


def test_names_are_those_of_the_files_and_of_nothing_else():
    assert {path.name for path in pretrained.FOLDER.iterdir() if path.is_file()} == {
        "__init__.py",
        *(f"{name}{suffix}" for name in NAMES for suffix in (".toml", ".safetensors")),
    }
    assert set(NAMES).isdisjoint({*catalog.NETWORKS, *experiment_names()})
    assert sum(card.bytes for card in cards().values()) < 1_000_000


def test_path_of_the_user_is_preferred(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(CARD.name) == CARD.file
    Path(CARD.name).mkdir()
    assert locate(CARD.name) == find(CARD.name) == Path(CARD.name)


def test_unknown_name_is_one_line_with_the_nearest():
    with pytest.raises(BnnError) as caught:
        find(f"{CARD.name}s")
    assert str(caught.value) == (
        f"no run in '{CARD.name}s', and no exported file; give the folder that `bnnk train` wrote, a file that `bnnk "
        f"export` wrote, or the name of a model of `bnnk list models`: did you mean '{CARD.name}'? known: "
        f"{', '.join(sorted(NAMES))}"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[accuracy]", "[accurac]", "accuracy: Field required"),
        ("correct = ", "correct = 99", r"accuracy: Value error, 99\d+ correct of \d+ images; expected at most"),
        ("seed = ", "seed = -", "seed: Input should be greater than or equal to 0"),
        ('sha256 = "', 'sha256 = "x', "sha256: String should match pattern"),
        ('name = "', 'name = "other', "it is the card of 'other"),
        ("bytes = ", "bytes = =", "Invalid value"),
        ("bits = ", "figures = ", "bits: Field required"),
    ],
)
def test_damaged_card(tmp_path, old, new, message):
    path = tmp_path / f"{CARD.name}.toml"
    path.write_text(CARD.file.with_suffix(".toml").read_text().replace(old, new, 1))
    with pytest.raises(BnnError, match=rf"^cannot read '.*{path.name}' as the card of a model \({message}.*install"):
        read_card(path)
