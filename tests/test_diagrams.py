"""Diagrams of networks: boxes, shortcuts, places and bad input."""

import functools
import itertools
import re
from xml.etree import ElementTree

import pytest
import tensorflow as tf
from helpers import error_line, run_bnnk

import bnn_keras
from bnn_keras import diagrams
from bnn_keras.diagrams import draw_network

SVG = "{http://www.w3.org/2000/svg}"


def draw(model, tmp_path, title=""):
    draw_network(model, tmp_path / "net.svg", title)
    return ElementTree.parse(tmp_path / "net.svg").getroot()


def texts(root):
    return [text.text for text in root.iter(f"{SVG}text")]


def boxes(root):
    """Return (class, x, y, width, height) of the boxes of layers."""
    keys = ("x", "y", "width", "height")
    found = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") != "page" and rect.get("height") != "14"]
    return [(rect.get("class"), *(float(rect.get(key)) for key in keys)) for rect in found]


def test_boxes_have_names_shapes_bits_and_weights(tmp_path):
    result = run_bnnk("show", "lenet5", "--diagram", tmp_path / "net.svg")
    assert result.exit_code == 0, result.output
    assert result.stdout == run_bnnk("show", "xnor_net/lenet5_mnist_5k").stdout
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    assert [kind for kind, *_ in boxes(root)] == ["plain", "real", "plain", "binary", "plain", "binary", "real"]
    written = texts(root)
    assert written[0] == "lenet5 · xnor 1/1"
    assert written[1].startswith("431,220 parameters (98.6 % with 1 bit)")
    start = written.index("bin_conv2.conv")
    assert written[start - 1 : start + 4] == [
        "8×8×50",
        "bin_conv2.conv",
        "1/1",
        "5×5 convolution, 20 → 50 → ReLU",
        "25,000 weights",
    ]
    assert "http" not in (tmp_path / "net.svg").read_text().replace("http://www.w3.org/2000/svg", "")


def residual():
    """Return a network with an identity shortcut, a projection, and two branches that are concatenated."""
    conv, add = functools.partial(tf.keras.layers.Conv2D, padding="same"), tf.keras.layers.Add()
    x = inputs = tf.keras.Input((8, 8, 2))
    x = conv(4, 3)(x)
    x = add([tf.keras.layers.BatchNormalization()(conv(4, 3)(x)), x])
    projected = conv(8, 1)(tf.keras.layers.AveragePooling2D()(x))
    x = tf.keras.layers.Add()([conv(8, 3, strides=2)(x), projected])
    x = tf.keras.layers.Concatenate()([conv(8, 1)(x), conv(8, 1)(x)])
    return tf.keras.Model(inputs, tf.keras.layers.Dense(3)(tf.keras.layers.Flatten()(x)))


def assert_complete(model, tmp_path):
    """Assert that boxes and sums are those of the network, within the picture and without overlap."""
    drawn = [node.layer.name for block in diagrams._blocks(model) for node in block.nodes]
    assert sorted(drawn) == sorted(layer.name for layer in model.layers[1:])
    root = draw(model, tmp_path)
    sums = sum(isinstance(layer, tf.keras.layers.Add) for layer in model.layers)
    assert len(list(root.iter(f"{SVG}circle"))) == sums
    assert len({x for _, x, *_ in boxes(root)}) == 2
    width, height = (float(root.get(key)) for key in ("width", "height"))
    for (_, x, y, w, h), (_, x2, y2, *_) in itertools.permutations(boxes(root), 2):
        assert not (x <= x2 < x + w and y <= y2 < y + h)
        assert x + w < width
        assert y + h < height


def test_boxes_and_sums_are_complete_and_do_not_overlap(tmp_path):
    assert_complete(residual(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["birealnet18", "reactnet_a"])
def test_boxes_and_sums_of_networks_are_complete(name, tmp_path):
    assert_complete(bnn_keras.build_model(bnn_keras.resolve(name).experiment), tmp_path)


def test_sum_of_an_input_and_text_of_unknown_origin(tmp_path):
    x = tf.keras.Input((4, 4, 2))
    y = tf.keras.layers.Conv2D(2, 3, padding="same", name="a>b")(x)
    root = draw(tf.keras.Model(x, tf.keras.layers.Add()([x, y])), tmp_path, "<script>\x1b")
    assert {"<script>\\x1b", "a>b"} <= set(texts(root))
    assert "<script" not in (tmp_path / "net.svg").read_text()
    assert len(list(root.iter(f"{SVG}circle"))) == 1


def test_other_suffix(tmp_path):
    line = error_line("show", "lenet5", "--diagram", tmp_path / "net.png")
    assert re.search(r"net\.png': expected the suffix \.svg; name it such as net\.svg$", line)
