import struct

import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import build_model, evaluate, import_checkpoint, interop, predict, train
from bnn_keras.data import make_arrays, mean_image_of, normalise, open_data, read_mean_image
from bnn_keras.data.augmentation import Moves, crop_for_training
from bnn_keras.data.mean_image import move_mean
from bnn_keras.data.pipelines import denormalise
from bnn_keras.data.resizing import lazy_image
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.export import export_run
from bnn_keras.models import load_run
from bnn_keras.runs import Run

MEAN = np.random.default_rng(0).uniform(0, 255, (256, 256, 3)).astype(np.float32)


def caffe(tmp_path):
    np.save(tmp_path / "mean.npy", MEAN)
    overrides = [f"data.mean_image={tmp_path / 'mean.npy'}"]
    experiment = resolve(experiment="xnor_net/alexnet_imagenet2012_caffe", overrides=overrides).experiment
    return experiment.with_arrays(lambda: make_arrays(experiment, pytest.fail))


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def blob(array, packed=True):
    """Return (channels, height, width) as a BlobProto, with Caffe's old fields and packed or single floats."""
    sizes = b"".join(bytes([field << 3]) + varint(size) for field, size in enumerate((1, *array.shape), start=1))
    values = [struct.pack("<f", value) for value in array.ravel()]
    if packed:
        content = b"".join(values)
        return sizes + b"\x2a" + varint(len(content)) + content
    return sizes + b"".join(b"\x2d" + value for value in values)


@pytest.mark.parametrize("packed", [True, False])
def test_binaryproto_is_read(tmp_path, packed):
    array = np.arange(3 * 10 * 20, dtype=np.float32).reshape(3, 10, 20)
    (tmp_path / "mean.binaryproto").write_bytes(blob(array, packed))
    assert np.array_equal(read_mean_image(tmp_path / "mean.binaryproto"), array.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mean.binaryproto", blob(np.zeros((3, 4, 4)))[:-5]),
        ("mean.binaryproto", b"\xff"),
        ("mean.binaryproto", b"\x0b"),
        ("mean.npy", b"text"),
        ("mean.npy", None),
    ],
)
def test_damaged_mean_image(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BnnError, match=r"cannot read .* as a mean image .*`bnnk datasets mean`"):
        read_mean_image(tmp_path / name)


def test_mean_image_of_another_shape(tmp_path):
    np.save(tmp_path / "mean.npy", MEAN[:100])
    experiment = resolve("alexnet", overrides=[f"data.mean_image={tmp_path / 'mean.npy'}"]).experiment
    with pytest.raises(BnnError, match=r"shape \(100, 256, 3\); expected \(227, 227, 3\) or \(256, 256, 3\)"):
        make_arrays(experiment, pytest.fail)


def test_evaluation_subtracts_the_centre(tmp_path):
    """The reference's evaluation: (image − mean) in BGR, and then the crop at ⌊29 / 2⌋."""
    experiment = caffe(tmp_path)
    image = np.random.default_rng(1).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    expected = (image[..., ::-1] - MEAN)[14:241, 14:241]
    inputs = normalise(experiment)(image[None, 14:241, 14:241])
    np.testing.assert_allclose(inputs[0], expected, atol=1e-3)
    np.testing.assert_allclose(denormalise(experiment)(inputs)[0], image[14:241, 14:241], atol=1e-3)


def test_training_subtracts_the_mean_where_the_crop_is(tmp_path):
    """The reference flips the image, subtracts the mean image, which is not flipped, and crops the difference."""
    experiment = caffe(tmp_path)
    image = np.random.default_rng(1).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    moves = Moves.of_epoch(experiment.data.augmentation, 8, tf.constant([5, 0], tf.int64))
    mirrored = 0
    for index in range(8):
        seed = tf.constant([index, 5], tf.int64)
        pixels = crop_for_training(lazy_image(tf.constant(image), 3), experiment, seed)
        moved = move_mean(pixels, experiment, seed, moves.mirrored(index))
        inputs = normalise(experiment)(moves.apply([index], moved[None]))[0].numpy()
        found = []
        for flipped in (image, image[:, ::-1]):
            difference = flipped[..., ::-1].astype(np.float32) - MEAN
            windows = np.lib.stride_tricks.sliding_window_view(difference[..., 0], (227, 227))
            found += np.argwhere(np.abs(windows[:, :, 0, 0] - inputs[0, 0, 0]) < 1e-2).tolist()
            matches = [
                np.allclose(difference[top : top + 227, left : left + 227], inputs, atol=1e-2) for top, left in found
            ]
            if any(matches):
                mirrored += flipped is not image
                break
        assert any(matches)
    assert 0 < mirrored < 8


@pytest.mark.usefixtures("eager")
def test_run_keeps_the_mean_image(tmp_path):
    overrides = ["data.examples=8", "data.std=[0.5]", "data.mean=[0.0]", f"data.mean_image={tmp_path / 'mean.npy'}"]
    dataset = open_data(resolve("lenet5", dataset="fake", overrides=overrides[:1]).experiment)
    np.save(tmp_path / "mean.npy", mean_image_of(dataset))
    experiment = resolve("lenet5", dataset="fake", epochs=1, batch_size=8, overrides=overrides).experiment
    result = train(experiment, tmp_path / "run", plain=True)
    (tmp_path / "mean.npy").unlink()
    assert evaluate(tmp_path / "run")["top1"] == result["top1"]
    _, model = load_run(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    inputs = (pixels - Run(tmp_path / "run").read_arrays()["mean_image"]) / 127.5
    logits = predict(tmp_path / "run", pixels).logits
    np.testing.assert_allclose(logits, model(inputs.astype(np.float32), training=False), rtol=1e-4, atol=1e-4)
    export_run(tmp_path / "run", "packed", tmp_path / "lenet5.safetensors")
    np.testing.assert_array_equal(predict(tmp_path / "lenet5.safetensors", pixels).logits, logits)


@pytest.mark.usefixtures("eager")
def test_imported_run_is_trained_without_the_file(tmp_path):
    """An import has no trained epoch; its copy of the mean image is used."""
    np.save(tmp_path / "mean.npy", np.full((28, 28, 1), 100.0))
    overrides = ["data.examples=8", f"data.mean_image={tmp_path / 'mean.npy'}", "stages.0.epochs=1"]
    experiment = resolve("lenet5", dataset="fake", batch_size=8, overrides=overrides).experiment
    np.savez(tmp_path / "lenet5.npz", **interop.to_reference(build_model(experiment)))
    overrides.append("stages.0.batch_size=8")
    run = tmp_path / "run"
    imported = import_checkpoint(tmp_path / "lenet5.npz", run, "lenet5", dataset="fake", overrides=overrides)
    (tmp_path / "mean.npy").unlink()
    train(imported.experiment, run, plain=True)
    assert np.all(Run(run).read_arrays()["mean_image"] == 100)
