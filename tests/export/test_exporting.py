"""Export a run to every format, open the files, and reject invalid options and damaged files."""

import functools
import inspect
import json
import os
import re
import shutil
import signal
import tempfile
import threading
import time

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import EXPORTED, error_line, export_trained, limited_file_size, run_bnnk

from bnn_keras import catalog, evaluate, export_run, load_run, predict, train
from bnn_keras.build import build_model
from bnn_keras.counts import count
from bnn_keras.data import normalise, open_test_data, user_images
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.export import formats, open_export, tflite, verify, worker
from bnn_keras.export import job as job_module
from bnn_keras.export.formats import files_of, format_module
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.export.sidecar import sidecar_path
from bnn_keras.files import write_json, write_text
from bnn_keras.runs import Run
from bnn_keras.training.callbacks import save_weights

SIDECAR_KEYS = {
    *(
        "sidecar_version",
        "format",
        "floats",
        "outputs",
        "batch_size",
        "network",
        "weights",
        "bytes",
        "bytes_minimum",
        "input_shape",
    ),
    *("binary_layers", "packed_layers", "computed_layers", "float_layers", "load_seconds"),
    *("verified_on", "images", "agreement", "logit_error"),
    *("largest_logit_error", "min_agreement", "tolerance", "versions", "sha256", "digest", "labels"),
    "experiment",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from bnn_keras.data.mnist_5k import FILE

    path = tmp_path_factory.mktemp("digits") / "digits.npy"
    with np.load(FILE) as arrays:
        np.save(path, arrays["images"][4::50][..., None])
    return path


@pytest.fixture(scope="module")
def exported(trained, data_dir, tmp_path_factory):
    """Folder with the trained run in every format."""
    return export_trained(tmp_path_factory, trained, data_dir)


@pytest.fixture(scope="module")
def results(trained, data_dir, digits):
    """Evaluation and predictions of the trained run."""
    return evaluate(trained, data_dir=data_dir), predict(trained, digits)


def sidecar_of(file):
    return json.loads(sidecar_path(file).read_text())


def run_of(directory, network="lenet5", random=True, **options):
    """Return the directory of a run with random weights."""
    experiment = resolve(network, **options).experiment
    model = build_model(experiment)
    if random:
        randomize_weights(model)
    run = Run(directory)
    directory.mkdir(parents=True)
    save_weights(model, run, "weights.h5", {})
    labels = [str(label) for label in range(experiment.data.row.classes)]
    write_json(run / "environment.json", {"dataset": {"labels": labels}})
    write_text(run / "experiment.toml", experiment.to_toml())
    return directory


@pytest.mark.parametrize("to", EXPORTED)
def test_sidecar_describes_the_file(exported, trained, to):
    file, row = exported / EXPORTED[to], catalog.FORMATS[to]
    sidecar = sidecar_of(file)
    assert (sidecar["format"], sidecar["verified_on"], sidecar["images"]) == (to, "mnist_5k test", 1000)
    assert sidecar["agreement"] == 100
    assert sidecar["logit_error"] <= sidecar["largest_logit_error"] < 1e-5
    packed, computed = 0 if row.packs == "none" else 2, 0 if row.computes == "none" else 2
    assert (sidecar["binary_layers"], sidecar["packed_layers"], sidecar["computed_layers"]) == (2, packed, computed)
    assert len(sidecar["float_layers"]) == 2 - computed
    assert 0 < sidecar["load_seconds"] < 60
    assert sidecar["batch_size"] == (None if row.batch == "any" else 1)
    assert sidecar["bytes"] == sum(part.stat().st_size for part in files_of(file))
    assert sidecar["bytes_minimum"] == count(load_run(trained)[1])["bytes_minimum"]
    packages = {package for other in catalog.FORMATS.values() for package in other.packages}
    assert {"bnn-keras", "tensorflow", *packages} == set(sidecar["versions"])
    assert set(sidecar) == {*SIDECAR_KEYS, *row.measured, *(["signature"] if row.code else [])}
    assert not [path.name for path in exported.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("to", EXPORTED)
def test_file_evaluates_and_predicts_like_the_run(exported, results, data_dir, digits, to):
    file = exported / EXPORTED[to]
    expected, actual = results[0], evaluate(file, data_dir=data_dir)
    assert all(actual[key] == expected[key] for key in ("top1", "top5", "images"))
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert actual["weights"] == to
    expected, actual = results[1], predict(file, digits)
    assert (actual.labels, actual.inputs) == (expected.labels, expected.inputs)
    np.testing.assert_allclose(actual.logits, expected.logits, rtol=0, atol=1e-4)
    if to == "packed":
        assert np.array_equal(actual.logits, expected.logits)


@pytest.mark.parametrize("to", ["tflite", "openvino"])
def test_size_is_near_the_minimum(exported, to):
    """Larq Compute Engine pads input channels to a multiple of 32, the pass for OpenVINO to one of 8."""
    file = exported / EXPORTED[to]
    minimum = sidecar_of(file)["bytes_minimum"] + {"tflite": 50 * 25 * 12 // 8, "openvino": 50 * 25 * 4 // 8}[to]
    weights = [part for part in files_of(file) if part.suffix in catalog.FORMATS[to].companions] or [file]
    assert sum(part.stat().st_size for part in weights) <= 1.05 * minimum + 16 * 1024


@pytest.mark.parametrize(
    ("to", "floats", "agreement", "error"),
    [
        # After two epochs many logits are close. Of int8, 96.8 to 98.5 % of the images agree, of float16 99.7 to 100 %,
        # which depends on the machine.
        ("packed", "float16", 99, 1e-2),
        pytest.param("tflite", "int8", 92, 0.3, marks=pytest.mark.slow),
        pytest.param("openvino", "int8", 92, 0.3, marks=pytest.mark.slow),
    ],
)
def test_smaller_floats_give_smaller_files_and_close_predictions(
    trained, exported, data_dir, tmp_path, to, floats, agreement, error
):
    options = {"min_agreement": agreement, "tolerance": error, "data_dir": data_dir}
    sidecar = export_run(trained, to, tmp_path / EXPORTED[to], floats=floats, **options)
    assert sidecar["bytes"] < sidecar_of(exported / EXPORTED[to])["bytes"]
    assert sidecar["floats"] == floats
    assert sidecar["agreement"] >= agreement


@pytest.mark.slow
def test_bfloat16_is_accepted_by_openvino(trained, data_dir, tmp_path):
    options = {"floats": "bfloat16", "min_agreement": 97, "tolerance": 0.2, "data_dir": data_dir}
    export_run(trained, "openvino", tmp_path / "model.xml", **options)
    assert open_export(tmp_path / "model.xml").format == "openvino"


@pytest.mark.parametrize(
    "to", [pytest.param("tflite", marks=pytest.mark.slow), "openvino", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_probabilities_of_a_softmax_export_are_those_of_the_run(trained, results, data_dir, digits, tmp_path, to):
    file = tmp_path / EXPORTED[to]
    sidecar = export_run(trained, to, file, softmax=True, verify_images=100, data_dir=data_dir)
    assert sidecar["outputs"] == "probabilities"
    np.testing.assert_allclose(predict(file, digits).probabilities, results[1].probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_saved_model_with_softmax_returns_probabilities(trained, results, data_dir, digits, tmp_path):
    file = tmp_path / "model"
    export_run(trained, "saved_model", file, softmax=True, verify_images=100, data_dir=data_dir)
    experiment = load_run(trained)[0]
    outputs = tf.saved_model.load(str(file)).signatures["serving_default"](
        images=normalise(experiment)(np.load(digits))
    )["outputs"]
    np.testing.assert_allclose(outputs, results[1].probabilities, atol=1e-5)
    np.testing.assert_allclose(predict(file, digits).probabilities, results[1].probabilities, atol=1e-5)


def test_openvino_files_have_a_fixed_batch_size(trained, data_dir, digits, tmp_path):
    file = tmp_path / "model.xml"
    sidecar = export_run(trained, "openvino", file, batch_size=32, verify_images=100, data_dir=data_dir)
    assert sidecar["batch_size"] == 32
    assert len(predict(file, digits).logits) == 100
    assert len(predict(file, digits, batch_size=32).logits) == 100
    with pytest.raises(BnnError, match="has a batch size of 32, got 7; export again with --batch-size 7"):
        predict(file, digits, batch_size=7)


def test_layers_with_real_inputs_are_float_and_need_allow_float(tmp_path):
    run = run_of(tmp_path / "run", bits="1/32")
    message = (
        r"tflite would compute 2 binary layer\(s\) in float: bin_conv2.conv \(its inputs are real\), .*accept this "
        "with --allow-float"
    )
    with pytest.raises(BnnError, match=message):
        export_run(run, "tflite", tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    file = tmp_path / "model.xml"
    result = run_bnnk("export", run, "--to", "openvino", "-o", file, "--allow-float", "--verify-images", "100")
    assert "Note: binary layer bin_ip1.linear is computed in float: its inputs are real" in result.stderr
    sidecar = sidecar_of(file)
    assert sidecar["float_layers"] == dict.fromkeys(["bin_conv2.conv", "bin_ip1.linear"], "its inputs are real")
    assert (sidecar["packed_layers"], sidecar["computed_layers"]) == (2, 0)
    assert (tmp_path / "model.bin").stat().st_size <= 1.05 * sidecar["bytes_minimum"] + 4 * 1024
    sidecar = export_run(run, "packed", tmp_path / "model.safetensors", verify_images=100)
    assert sidecar["packed_layers"] == 2


def test_random_images_verify_networks_of_unprepared_datasets(tmp_path):
    run = run_of(tmp_path / "run", dataset="mnist")
    with pytest.warns(UserWarning, match="'mnist' is not available: the file is verified on 64 random images"):
        sidecar = export_run(run, "packed", tmp_path / "model.safetensors", data_dir=str(tmp_path / "none"))
    assert (sidecar["verified_on"], sidecar["images"], sidecar["min_agreement"]) == ("random", 64, None)
    assert sidecar["tolerance"] == 1e-3


def test_random_images_verify_networks_of_datasets_that_cannot_be_prepared(trained, tmp_path):
    with pytest.warns(UserWarning, match="mnist_5k") as warned:
        sidecar = export_run(trained, "packed", tmp_path / "model.safetensors", data_dir="/dev/null/data")
    assert sidecar["verified_on"] == "random"
    cause, consequence = (str(warning.message) for warning in warned)
    assert cause.startswith("cannot read dataset 'mnist_5k': cannot prepare dataset 'mnist_5k' in '/dev/null/data/")
    assert consequence.startswith("dataset 'mnist_5k' is not available: the file is verified on 64 random images")


def test_verify_on_selects_the_images(trained, data_dir, digits, tmp_path):
    sidecar = export_run(trained, "packed", tmp_path / "a.safetensors", verify_on=str(digits), verify_images=60)
    assert (sidecar["verified_on"], sidecar["images"]) == (str(digits), 60)
    sidecar = export_run(trained, "packed", tmp_path / "b.safetensors", verify_on="mnist_5k", data_dir=data_dir)
    assert (sidecar["verified_on"], sidecar["images"]) == ("mnist_5k test", 1000)
    with pytest.raises(BnnError, match="unknown dataset 'nowhere'"):
        export_run(trained, "packed", tmp_path / "c.safetensors", verify_on="nowhere")


def test_a_file_with_other_predictions_is_not_written(trained, data_dir, tmp_path, monkeypatch):
    module = format_module(catalog.FORMATS["packed"])
    load = module.load

    def wrong(*arguments):
        predict = load(*arguments)
        return lambda images: -predict(images)

    file = tmp_path / "model.safetensors"
    export_run(trained, "packed", file, verify_images=1, data_dir=data_dir)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(module, "load", wrong)
    with pytest.raises(BnnError, match=r"does not predict what the network predicts: on 100 images of mnist_5k test"):
        export_run(trained, "packed", file, verify_images=100, data_dir=data_dir)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def _ctrl_c():
    """Ctrl-C interrupts, also in a background job of a shell, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_export_leaves_nothing(tmp_path, monkeypatch, number):
    """A converter in the second process is stopped too. OpenVINO's creates a missing folder."""
    run = run_of(tmp_path / "run", dataset="fake")
    worker.call("os:getpid")  # starts the second process

    def convert(job, file):
        (file.parent / "half").write_text(str(job.graph))
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        worker.call("subprocess:run", ["sh", "-c", f"sleep 1.5; mkdir -p {file.parent}; touch {file}"])

    monkeypatch.setattr(format_module(catalog.FORMATS["openvino"]), "convert", convert)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        export_run(run, "openvino", tmp_path / "new" / "0.xml")
    time.sleep(1.6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "temporary"]
    assert not list((tmp_path / "temporary").glob("bnn-keras-*"))


@pytest.mark.parametrize("to", ["saved_model", "tflite"])
def test_full_temporary_folder_is_one_clear_error(tmp_path, monkeypatch, to):
    run = run_of(tmp_path / "run", dataset="fake")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with limited_file_size(100_000):
        line = error_line("export", run, "--to", to, "-o", tmp_path / EXPORTED[to])
    assert line == (
        f"cannot write temporary files in '{tmp_path / 'temporary'}' (File too large); free disk space, or set TMPDIR "
        "to another folder"
    )
    assert not list((tmp_path / "temporary").glob("bnn-keras-*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "temporary"]


@pytest.mark.parametrize("to", ["packed", pytest.param("openvino", marks=pytest.mark.slow), "saved_model"])
def test_full_disk_is_one_clear_error(tmp_path, monkeypatch, to):
    """The files of an export that are in memory, or in the temporary folder, do not fit where it is written."""
    run = run_of(tmp_path / "run", dataset="fake")
    save_graph = job_module.save_graph

    def save_without_limit(*arguments):
        with limited_file_size(-1):
            save_graph(*arguments)

    monkeypatch.setattr(job_module, "save_graph", save_without_limit)
    with limited_file_size(20_000, functools.partial(worker.call, "resource:setrlimit")), limited_file_size(20_000):
        line = error_line("export", run, "--to", to, "-o", tmp_path / EXPORTED[to])
    assert re.fullmatch(rf"cannot write '{tmp_path / EXPORTED[to]}' \([^\[\]']+\); free disk space, .*", line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
def test_an_earlier_export_is_replaced(trained, data_dir, tmp_path):
    file = tmp_path / "model"
    export_run(run_of(tmp_path / "run"), "saved_model", file, verify_images=1, data_dir=data_dir)
    before = sidecar_of(file)
    export_run(trained, "saved_model", file, verify_images=1, data_dir=data_dir)
    assert sidecar_of(file)["sha256"] != before["sha256"]
    assert open_export(file).format == "saved_model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.json", "run"]


def test_logit_error_is_the_median_over_the_images():
    images = np.ones((5, 2), np.float32)
    factors = np.array([1, 1.1, 1.2, 1.3, 3], np.float32)[:, None]
    measured = verify.compare(lambda batch: batch, lambda batch: batch * factors, [images])
    assert measured["logit_error"] == pytest.approx(0.2, rel=1e-5)
    assert measured["largest_logit_error"] == pytest.approx(2, rel=1e-5)


def test_images_to_verify_on_are_read_batch_by_batch(tmp_path, monkeypatch):
    for index in range(100):
        (tmp_path / f"{index:03}.png").touch()
    read = []
    monkeypatch.setattr(
        user_images, "_read_image", lambda file, channels: read.append(file) or np.zeros((28, 28, 1), np.uint8)
    )
    experiment = resolve("lenet5").experiment
    sample = verify.load_sample(experiment, str(tmp_path), 70)
    assert len(read) == 32  # errors of the first images are found before the export
    counts = []
    logits = lambda images: counts.append(len(read)) or images[:, 0, :10, 0]  # noqa: E731
    assert verify.compare(logits, logits, sample.batches)["images"] == 70
    assert counts == [32, 32, 64, 64, 96, 96]


def test_verification_catches_explicit_zero_padding(tmp_path):
    """Larq Compute Engine converts zero padding of a binarized map to a wrong model, without a warning."""
    tf.keras.utils.set_random_seed(1)
    binary = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
    x = images = tf.keras.Input((8, 8, 32))
    x = larq.layers.QuantConv2D(32, 3, padding="same", input_quantizer="ste_sign", name="first", **binary)(x)
    x = larq.quantizers.SteSign()(tf.keras.layers.BatchNormalization()(x))
    x = larq.layers.QuantConv2D(32, 3, name="second", **binary)(tf.keras.layers.ZeroPadding2D(1)(x))
    model = tf.keras.Model(images, tf.keras.layers.GlobalAveragePooling2D()(x))
    job = ExportJob(model, resolve("resnet20").experiment, [str(label) for label in range(32)])
    tflite.convert(job, tmp_path / "model.tflite")
    sample = verify.Sample(verify.RANDOM, [np.random.default_rng(0).normal(0, 1, (16, 8, 8, 32)).astype(np.float32)])
    network = lambda images: model(images).numpy()  # noqa: E731
    measured = verify.compare(network, tflite.load(tmp_path / "model.tflite"), sample.batches)
    with pytest.raises(BnnError, match=r"the median error of the logits is .*, expected at most 0.001"):
        verify.check(measured, sample, verify.Limits.for_sample(sample))


@pytest.mark.slow
def test_a_large_dense_layer_is_stored_in_one_bit_per_weight(tmp_path):
    """A layer of AlexNet's size. Converters do not fold the reshape of such a large constant."""
    x = images = tf.keras.Input((9216,))
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
    model = tf.keras.Model(images, larq.layers.QuantDense(4096, name="large", **binary)(x))
    job = ExportJob(model, resolve("resnet20").experiment, [])
    for to in ("tflite", "openvino"):
        file = tmp_path / EXPORTED[to]
        assert format_module(catalog.FORMATS[to]).convert(job, file).stored == {}
        assert sum(part.stat().st_size for part in files_of(file)) < 9216 * 4096 / 8 * 1.02 + 16 * 1024


def test_a_crash_of_a_converter_is_one_error(trained, data_dir, tmp_path, monkeypatch):
    real = tflite.worker.call
    monkeypatch.setattr(tflite.worker, "call", lambda function, *arguments: real("os:abort"))
    with pytest.raises(BnnError, match=r"os.abort crashed \(SIGABRT\).*nothing was written"):
        export_run(trained, "tflite", tmp_path / "model.tflite", data_dir=data_dir)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "name", "options", "message"),
    [
        ("onxx", "m.onnx", {}, "unknown format 'onxx'; did you mean 'onnx'"),
        ("tflite", "m.bin", {}, "'.*m.bin' is not a file name of format 'tflite'; name it 'm.tflite'"),
        ("packed", "m.xml", {}, "'.*m.xml' has the suffix of format 'openvino'; choose a name"),
        (
            "packed",
            "m.safetensors",
            {"floats": "int8"},
            "format 'packed' has no floats 'int8'; expected one of float32, float16",
        ),
        ("packed", "m.safetensors", {"softmax": True}, "stores a network that returns logits; leave --softmax out"),
        ("tflite", "m.tflite", {"batch_size": 8}, "format 'tflite' has no fixed batch size, got 8; leave"),
        ("packed", "", {}, "' is a folder; choose another name"),
    ],
)
def test_invalid_options_are_refused_before_the_run_is_loaded(trained, tmp_path, to, name, options, message):
    with pytest.raises(BnnError, match=message):
        export_run(trained, to, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["larq_compute_engine", "openvino"])
def test_an_error_names_the_extra_of_a_missing_package(trained, data_dir, tmp_path, monkeypatch, package):
    to = {"larq_compute_engine": "tflite", "openvino": "openvino"}[package]

    real = formats.importlib.import_module

    def missing(name):
        if name == catalog.FORMATS[to].module:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name)

    monkeypatch.setattr(formats.importlib, "import_module", missing)
    with pytest.raises(BnnError, match=rf"needs '{package}', which is not installed .*pip install 'bnn-keras\[{to}\]'"):
        export_run(trained, to, tmp_path / EXPORTED[to], data_dir=data_dir)


@pytest.mark.parametrize("to", ["tflite", "openvino", "saved_model"])
def test_a_changed_file_is_not_opened(exported, tmp_path, to):
    copy = tmp_path / EXPORTED[to]
    source = exported / EXPORTED[to]
    for part in exported.glob("model*"):
        if part.is_file():
            shutil.copy(part, tmp_path)
    if source.is_dir():
        shutil.copytree(source, copy)
    part = files_of(copy)[-1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(BnnError, match=r"does not match its checksum in .*: it has changed; export again"):
        open_export(copy)


def test_a_renamed_export_predicts_like_the_run(exported, results, digits, tmp_path):
    for suffix in ("xml", "bin", "xml.json"):
        shutil.copy(exported / f"model.{suffix}", tmp_path / f"renamed.{suffix}")
    np.testing.assert_allclose(predict(tmp_path / "renamed.xml", digits).logits, results[1].logits, rtol=0, atol=1e-4)


def test_a_missing_or_damaged_sidecar_is_an_error(exported, tmp_path):
    copy = shutil.copy(exported / "model.tflite", tmp_path)
    with pytest.raises(BnnError, match=r"has no sidecar model.tflite.json beside it"):
        open_export(copy)
    sidecar = tmp_path / "model.tflite.json"
    sidecar.write_text("{")
    with pytest.raises(BnnError, match=r"cannot read '.*model.tflite.json'"):
        open_export(copy)
    sidecar.write_text(json.dumps({**sidecar_of(exported / "model.tflite"), "sidecar_version": 2}))
    with pytest.raises(BnnError, match="has version 2; expected 1"):
        open_export(copy)
    with pytest.raises(BnnError, match="no file or folder"):
        open_export(tmp_path / "nothing.tflite")


def test_bop_kernels_must_be_binary(tmp_path):
    run = run_of(tmp_path / "fresh", optimizer="bop", random=False)
    with pytest.raises(BnnError, match=r"is not binary: .* with Bop, .* train for a step and export again"):
        export_run(run, "packed", tmp_path / "model.safetensors")
    run = run_of(tmp_path / "signs", optimizer="bop")
    assert export_run(run, "packed", tmp_path / "model.safetensors", verify_images=100)["packed_layers"] == 2


@pytest.mark.slow
def test_a_network_trained_with_bop_is_exported(tmp_path, data_dir):
    train(resolve("lenet5", optimizer="bop", epochs=1).experiment, tmp_path / "run", data_dir=data_dir)
    sidecar = export_run(tmp_path / "run", "openvino", tmp_path / "model.xml", data_dir=data_dir)
    assert sidecar["packed_layers"] == 2


@pytest.mark.parametrize("to", ["packed", *(pytest.param(to, marks=pytest.mark.slow) for to in ("tflite", "openvino"))])
def test_exports_of_imported_networks_rotate_their_images(tmp_path, digits, to):
    run = run_of(tmp_path / "run", overrides=["network.rotated=true"])
    sidecar = export_run(run, to, tmp_path / EXPORTED[to], verify_on=str(digits))
    assert "rotated = true" in sidecar["experiment"]
    assert sidecar["agreement"] == 100


def test_verify_on_a_dataset_of_another_shape_is_an_error(trained, tmp_path):
    with pytest.raises(BnnError, match="dataset 'cifar10' has images 32 × 32 × 3 in 10 classes; the network expects"):
        open_test_data(load_run(trained)[0], "cifar10")


def test_an_error_names_the_extra_of_a_type_of_floats():
    row = catalog.FORMATS["openvino"]
    for floats, extra in (("int8", "int8"), ("float32", "openvino"), (None, "openvino")):
        with (
            pytest.raises(BnnError, match=rf"needs 'nncf', .*pip install 'bnn-keras\[{extra}\]'"),
            formats.installed(row, floats),
        ):
            raise ImportError("No module named 'nncf'", name="nncf")


@pytest.mark.parametrize("row", catalog.FORMATS.values(), ids=catalog.FORMATS)
def test_modules_implement_their_protocol(row):
    protocol = formats.SelfContainedFormat if row.self_contained else formats.Format
    protocol = protocol if row.opens else formats.WeightsFormat
    module = format_module(row)
    for name in ("convert", "load", "open_file", "tensors", "write"):
        if hasattr(protocol, name):
            expected = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
            assert list(inspect.signature(getattr(module, name)).parameters) == expected


def test_the_format_of_a_file(exported):
    for to, name in EXPORTED.items():
        assert formats.format_of(exported / name).name == to
    assert [path.name for path in files_of(exported / "model.xml")] == ["model.xml", "model.bin"]
