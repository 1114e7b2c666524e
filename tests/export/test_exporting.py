"""A run to files of every format and back, and what is refused."""

import json
import shutil

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog, evaluate, export_run, load_run, predict, train
from bnn_keras.build import build_model
from bnn_keras.counts import count
from bnn_keras.data import open_test_data
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.export import formats, open_export, tflite, verify
from bnn_keras.export.formats import files_of, format_module
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.files import write_json, write_text
from bnn_keras.runs import Run
from bnn_keras.training.callbacks import save_weights

NAMES = {
    "packed": "model.safetensors",
    "tflite": "model.tflite",
    "openvino": "model.xml",
    "saved_model": "model",
    "onnx": "model.onnx",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from bnn_keras.data.mnist_5k import FILE

    path = tmp_path_factory.mktemp("digits") / "digits.npy"
    with np.load(FILE) as arrays:
        np.save(path, arrays["images"][4::50][..., None])
    return path


@pytest.fixture(scope="module")
def files(trained, data_dir, tmp_path_factory):
    """A run in every format, with the sidecars."""
    folder = tmp_path_factory.mktemp("files")
    said = {to: export_run(trained, to, folder / name, data_dir=data_dir) for to, name in NAMES.items()}
    return folder, said


def run_of(directory, network, **options):
    """A run of a network that looks trained."""
    experiment = resolve(network, **options).experiment
    model = build_model(experiment)
    randomize_weights(model)
    run = Run(directory)
    directory.mkdir(parents=True)
    save_weights(model, run, "weights.h5")
    labels = [str(label) for label in range(experiment.data.row.classes)]
    write_json(run / "environment.json", {"dataset": {"labels": labels}})
    write_text(run / "experiment.toml", experiment.to_toml())
    return directory


@pytest.mark.parametrize("to", NAMES)
def test_a_file_says_what_it_is(files, trained, to):
    folder, said = files
    sidecar, row = said[to], catalog.FORMATS[to]
    file = folder / NAMES[to]
    assert json.loads((folder / f"{NAMES[to]}.json").read_text()) == sidecar
    assert (sidecar["format"], sidecar["verified_on"], sidecar["images"]) == (to, "mnist_5k test", 1000)
    assert sidecar["agreement"] == 100
    assert sidecar["logit_error"] <= sidecar["largest_logit_error"] < 1e-5
    packed = 0 if row.packs == "none" else 2
    assert (sidecar["binary_layers"], sidecar["packed_layers"], len(sidecar["float_layers"])) == (2, packed, 2 - packed)
    assert sidecar["bytes"] == sum(part.stat().st_size for part in files_of(file))
    assert sidecar["bytes_minimum"] == count(load_run(trained)[1])["bytes_minimum"]
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("to", NAMES)
def test_evaluates_and_predicts_as_the_run(files, trained, data_dir, digits, to):
    file = files[0] / NAMES[to]
    ours, theirs = evaluate(trained, data_dir=data_dir), evaluate(file, data_dir=data_dir)
    assert (ours["top1"], ours["top5"], ours["images"]) == (theirs["top1"], theirs["top5"], theirs["images"])
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert theirs["weights"] == to
    expected, found = predict(trained, digits), predict(file, digits)
    assert (expected.labels, expected.inputs) == (found.labels, found.inputs)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-4)
    if to == "packed":
        assert np.array_equal(found.logits, expected.logits)


@pytest.mark.parametrize("to", ["tflite", "openvino"])
def test_size_is_near_the_minimum(files, to):
    """Larq Compute Engine pads input channels to 32, the pass for OpenVINO to 8; a graph comes on top."""
    minimum = files[1][to]["bytes_minimum"] + {"tflite": 50 * 25 * 12 // 8, "openvino": 50 * 25 * 4 // 8}[to]
    parts = [part for part in files_of(files[0] / NAMES[to]) if part.suffix != ".xml"]
    assert sum(part.stat().st_size for part in parts) <= 1.05 * minimum + 16 * 1024


@pytest.mark.parametrize(
    ("to", "floats", "agreement", "error"),
    [("packed", "float16", 99.9, 1e-2), ("tflite", "int8", 98, 0.1), ("openvino", "int8", 97, 0.2)],
)
def test_other_floats_are_smaller_and_close(trained, files, data_dir, tmp_path, to, floats, agreement, error):
    options = {"min_agreement": agreement, "tolerance": error, "data_dir": data_dir}
    said = export_run(trained, to, tmp_path / NAMES[to], floats=floats, **options)
    assert said["bytes"] < files[1][to]["bytes"]
    assert said["floats"] == floats
    assert said["agreement"] >= agreement


def test_bfloat16_is_a_matter_of_the_device(trained, data_dir, tmp_path):
    options = {"floats": "bfloat16", "min_agreement": 97, "tolerance": 0.2, "data_dir": data_dir}
    export_run(trained, "openvino", tmp_path / "model.xml", **options)
    assert open_export(tmp_path / "model.xml").format == "openvino"


@pytest.mark.parametrize("to", ["tflite", "openvino", "saved_model", "onnx"])
def test_softmax_is_taken_back_for_logits(trained, data_dir, digits, tmp_path, to):
    file = tmp_path / NAMES[to]
    said = export_run(trained, to, file, softmax=True, data_dir=data_dir)
    assert said["outputs"] == "probabilities"
    found, expected = predict(file, digits), predict(trained, digits)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)


def test_batches_that_openvino_settles(trained, data_dir, digits, tmp_path):
    file = tmp_path / "model.xml"
    assert export_run(trained, "openvino", file, batch_size=32, data_dir=data_dir)["batch_size"] == 32
    assert len(predict(file, digits).logits) == 100
    assert len(predict(file, digits, batch_size=32).logits) == 100
    with pytest.raises(BnnError, match="takes batches of 32, asked for are batches of 7; export it again with --batch"):
        predict(file, digits, batch_size=7)


def test_layers_with_real_inputs_are_float_and_need_leave(tmp_path):
    run = run_of(tmp_path / "run", "lenet5", bits="1/32")
    message = r"2 binary layer\(s\) would be float in tflite: bin_conv2.conv \(its inputs are real\), .*--allow-float"
    with pytest.raises(BnnError, match=message):
        export_run(run, "tflite", tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    said = export_run(run, "openvino", tmp_path / "model.xml", allow_float=True)
    assert said["float_layers"] == dict.fromkeys(["bin_conv2.conv", "bin_ip1.linear"], "its inputs are real")
    assert export_run(run, "packed", tmp_path / "model.safetensors")["packed_layers"] == 2


@pytest.mark.filterwarnings("ignore:dataset 'cifar10' is not prepared")
def test_random_images_where_there_are_no_others(tmp_path):
    run = run_of(tmp_path / "run", "resnet20")
    with pytest.warns(UserWarning, match="'cifar10' is not prepared: the file is verified on 64 random images"):
        said = export_run(run, "packed", tmp_path / "model.safetensors", data_dir=str(tmp_path / "none"))
    assert (said["verified_on"], said["images"], said["min_agreement"]) == ("random", 64, None)
    assert said["tolerance"] == 1e-3


def test_verified_on_what_is_asked_for(trained, data_dir, digits, tmp_path):
    said = export_run(trained, "packed", tmp_path / "a.safetensors", verify_on=str(digits), verify_images=60)
    assert (said["verified_on"], said["images"]) == (str(digits), 60)
    said = export_run(trained, "packed", tmp_path / "b.safetensors", verify_on="mnist_5k", data_dir=data_dir)
    assert (said["verified_on"], said["images"]) == ("mnist_5k test", 1000)
    with pytest.raises(BnnError, match="unknown dataset 'nowhere'"):
        export_run(trained, "packed", tmp_path / "c.safetensors", verify_on="nowhere")


def test_a_file_that_predicts_something_else_does_not_stay(trained, data_dir, tmp_path, monkeypatch):
    module = format_module(catalog.FORMATS["packed"])
    good = module.load

    def wrong(*arguments):
        predict = good(*arguments)
        return lambda images: -predict(images)

    monkeypatch.setattr(module, "load", wrong)
    file = tmp_path / "model.safetensors"
    file.write_text("what was there")
    with pytest.raises(BnnError, match=r"does not predict what the network predicts: on 1000 images of mnist_5k test"):
        export_run(trained, "packed", file, data_dir=data_dir)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_text() == "what was there"


def test_verification_catches_explicit_zero_padding(tmp_path):
    """Larq Compute Engine converts zeros round a binarized map to a wrong model, and says nothing."""
    tf.keras.utils.set_random_seed(1)
    binary = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
    x = images = tf.keras.Input((8, 8, 32))
    x = larq.layers.QuantConv2D(32, 3, padding="same", input_quantizer="ste_sign", name="first", **binary)(x)
    x = larq.quantizers.SteSign()(tf.keras.layers.BatchNormalization()(x))
    x = larq.layers.QuantConv2D(32, 3, name="second", **binary)(tf.keras.layers.ZeroPadding2D(1)(x))
    model = tf.keras.Model(images, tf.keras.layers.GlobalAveragePooling2D()(x))
    source = ExportJob(model, resolve("resnet20").experiment, [str(label) for label in range(32)])
    tflite.convert(source, tmp_path / "model.tflite")
    sample = verify.Sample(verify.RANDOM, np.random.default_rng(0).normal(0, 1, (16, 8, 8, 32)).astype(np.float32))
    network = lambda images: model(images).numpy()  # noqa: E731
    measured = verify.compare(network, tflite.load(tmp_path / "model.tflite"), sample.images)
    with pytest.raises(BnnError, match="the median error of logits is"):
        verify.check(measured, sample, verify.Limits.for_sample(sample))


@pytest.mark.slow
def test_a_large_dense_layer_is_packed(tmp_path):
    """Of AlexNet's size: converters fold no constants that large, so that its kernel must come as it is used."""
    x = images = tf.keras.Input((9216,))
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
    model = tf.keras.Model(images, larq.layers.QuantDense(4096, name="large", **binary)(x))
    source = ExportJob(model, resolve("resnet20").experiment, [])
    for to in ("tflite", "openvino"):
        file = tmp_path / NAMES[to]
        assert format_module(catalog.FORMATS[to]).convert(source, file) == {}
        assert sum(part.stat().st_size for part in files_of(file)) < 9216 * 4096 / 8 * 1.02 + 16 * 1024


def test_a_converter_that_crashes_is_one_error(trained, data_dir, tmp_path, monkeypatch):

    real = tflite.worker.call
    monkeypatch.setattr(tflite.worker, "call", lambda function, *arguments: real("os:abort"))
    with pytest.raises(BnnError, match=r"os.abort crashed \(SIGABRT\).*nothing was written"):
        export_run(trained, "tflite", tmp_path / "model.tflite", data_dir=data_dir)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "name", "options", "message"),
    [
        ("onxx", "m.onnx", {}, "unknown format 'onxx'; did you mean 'onnx'"),
        ("tflite", "m.bin", {}, "'.*m.bin' is no name for tflite; name it 'm.tflite'"),
        ("packed", "m.xml", {}, r"'.*m.xml' is the name of another format \(openvino\)"),
        (
            "packed",
            "m.safetensors",
            {"floats": "int8"},
            "format 'packed' has no floats 'int8'; it has float32, float16",
        ),
        ("packed", "m.safetensors", {"softmax": True}, "holds the network, which gives logits"),
        ("tflite", "m.tflite", {"batch_size": 8}, "format 'tflite' does not settle the size of a batch"),
        ("packed", "", {}, "' is a folder; choose another name"),
    ],
)
def test_what_cannot_be_is_refused_first(trained, tmp_path, to, name, options, message):
    with pytest.raises(BnnError, match=message):
        export_run(trained, to, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["larq_compute_engine", "openvino"])
def test_a_package_that_is_missing(trained, data_dir, tmp_path, monkeypatch, package):
    to = {"larq_compute_engine": "tflite", "openvino": "openvino"}[package]

    real = formats.importlib.import_module

    def missing(name):
        if name == catalog.FORMATS[to].module:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name)

    monkeypatch.setattr(formats.importlib, "import_module", missing)
    with pytest.raises(BnnError, match=rf"needs '{package}', which is not installed .*pip install 'bnn-keras\[{to}\]'"):
        export_run(trained, to, tmp_path / NAMES[to], data_dir=data_dir)


@pytest.mark.parametrize("to", ["tflite", "openvino", "saved_model"])
def test_a_file_that_was_changed_is_given_to_no_library(files, tmp_path, to):
    copy = tmp_path / NAMES[to]
    source = files[0] / NAMES[to]
    for part in files[0].glob("model*"):
        if part.is_file():
            shutil.copy(part, tmp_path)
    if source.is_dir():
        shutil.copytree(source, copy)
    part = files_of(copy)[-1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(BnnError, match="was changed; export it again"):
        open_export(copy)


def test_a_file_without_its_sidecar(files, tmp_path):
    copy = shutil.copy(files[0] / "model.tflite", tmp_path)
    with pytest.raises(BnnError, match=r"has no model.tflite.json beside it"):
        open_export(copy)
    sidecar = tmp_path / "model.tflite.json"
    sidecar.write_text("{")
    with pytest.raises(BnnError, match=r"cannot read '.*model.tflite.json'"):
        open_export(copy)
    sidecar.write_text(json.dumps({**files[1]["tflite"], "sidecar_version": 2}))
    with pytest.raises(BnnError, match="has version 2; expected 1"):
        open_export(copy)
    with pytest.raises(BnnError, match="no file or folder"):
        open_export(tmp_path / "nothing.tflite")


def test_bop_before_its_first_step(tmp_path, data_dir):
    run = Run(tmp_path / "run")
    experiment = resolve("lenet5", optimizer="bop", epochs=1).experiment
    run.directory.mkdir()
    save_weights(build_model(experiment), run, "weights.h5")
    write_json(run / "environment.json", {"dataset": {"labels": [str(label) for label in range(10)]}})
    write_text(run / "experiment.toml", experiment.to_toml())
    with pytest.raises(BnnError, match="Bop's kernels are binary after its first step"):
        export_run(run.directory, "packed", tmp_path / "model.safetensors", data_dir=data_dir)
    train(experiment, tmp_path / "trained", data_dir=data_dir)
    said = export_run(tmp_path / "trained", "openvino", tmp_path / "model.xml", data_dir=data_dir)
    assert said["packed_layers"] == 2


def test_imported_networks_turn_their_images(tmp_path, digits):
    run = run_of(tmp_path / "run", "resnet20", overrides=["network.rotated=true"])
    for to in ("packed", "tflite", "openvino"):
        with pytest.warns(UserWarning, match="random images"):
            export_run(run, to, tmp_path / NAMES[to], data_dir=str(tmp_path / "none"))
    assert "rotated = true" in json.loads((tmp_path / "model.xml.json").read_text())["experiment"]


def test_data_of_another_shape_to_verify_on(trained, tmp_path):
    with pytest.raises(BnnError, match="dataset 'cifar10' has images 32 × 32 × 3 in 10 classes; the network expects"):
        open_test_data(load_run(trained)[0], "cifar10")
