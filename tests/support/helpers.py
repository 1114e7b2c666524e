"""Functions that tests share: `from helpers import ...` (pytest puts this folder on the path)."""

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def read_weights(file):
    """Return the arrays of an HDF5 weights file by name."""
    values = {}
    with h5py.File(file) as stream:
        stream.visititems(
            lambda name, item: values.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    assert values
    return values


def same_weights(one, other):
    """Return whether two weights files are equal bit for bit."""
    one, other = read_weights(one), read_weights(other)
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def contents(directory):
    """Return the content of all files below a directory, by path, without the lock file."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def flip_bit(path):
    """Change one bit in the middle of a file."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def run_bnnk(*args):
    """Run `bnnk` in this process; return click's result with `exit_code`, `stdout` and `stderr`."""
    from bnn_keras.cli import main

    return CliRunner().invoke(main, [str(arg) for arg in args])


def error_line(*args, code=1):
    """Run `bnnk`, which must fail with one error line and no traceback; return that line."""
    result = run_bnnk(*args)
    assert result.exit_code == code, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: "), result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return last.removeprefix("Error: ")


def run_python(code, **options):
    """Run Python code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.strip()


def to_hwio(kernel):
    """Return a reference's kernel (OIHW or OI) in Keras's layout (HWIO or IO)."""
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def to_oihw(kernel):
    """Return a Keras kernel (HWIO or IO) in the references' layout (OIHW or OI)."""
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def assert_close(value, reference):
    """Assert equality up to rounding in float64."""
    np.testing.assert_allclose(value, reference, rtol=1e-12, atol=1e-14 * np.max(np.abs(reference)))


def value_and_gradient(function, x, upstream):
    """Return `function(x)`, and the gradient of `x` for the gradient `upstream` of the result."""
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y.numpy(), tape.gradient(y, x, tf.constant(upstream)).numpy()


def free_memory():
    """Free what Keras and TensorFlow keep of earlier models, and return it to the operating system."""
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry

    tf.keras.backend.clear_session()
    for name in [name for name in gradient_registry.list() if name.startswith("CustomGradient")]:
        del gradient_registry._registry[name]
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def limited_file_size(size, setrlimit=resource.setrlimit):
    """Make writes beyond a number of bytes fail, as on a full disk; with its `setrlimit`, in another process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def shared_folder(tmp_path_factory):
    """Return the temporary folder that the processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(tmp_path_factory, name, make):
    """Return a folder that `make(folder)` filled, once per test run: the processes of pytest-xdist share it.

    Read it only. Other processes wait while one makes it.
    """
    base = shared_folder(tmp_path_factory)
    folder, done = base / "shared" / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(parents=True)
            make(folder)
            done.touch()
    return folder


def small_network(name, scheme, classes=10, input_shape=None, **options):
    """Build a shallow, narrow variant of a network of the catalog, for small images.

    Args:
        name: Name of the network.
        scheme: Builds its binary layers.
        classes: Number of logits.
        input_shape: Height, width, channels; as small as the network allows by default.
        **options: Arguments of the network's function, such as `structure`.
    """
    from bnn_keras.build import build_network

    two_stages = {"blocks": (1, 1), "filters": (8, 16)}
    alexnet = {"filters": (8, 8, 8, 8, 8), "units": (16, 16)}
    smallest, sizes = {
        "lenet5": ((28, 28, 1), {}),
        "nin": ((16, 16, 3), {"filters": (8,) * 8}),
        "alexnet": ((67, 67, 3), alexnet),
        "binarynet": ((22, 22, 3), {"filters": 8, "multiples": (1, 2), "dense_units": 16, "dense_layers": 1}),
        "binary_alexnet": ((64, 64, 3), alexnet),
        "xnornet": ((217, 217, 3), alexnet),
        "birealnet18": ((32, 32, 3), two_stages),
        "birealnet34": ((32, 32, 3), two_stages),
        "birealnet50": ((32, 32, 3), two_stages),
        "resnet20": ((16, 16, 3), two_stages),
        "resnet18_cifar": ((16, 16, 3), two_stages),
        "resnet18": ((32, 32, 3), two_stages),
        "resnet34": ((32, 32, 3), two_stages),
        "torchvision_resnet18": ((32, 32, 3), two_stages),
        "torchvision_resnet34": ((32, 32, 3), two_stages),
        "reactnet_a": ((16, 16, 3), {"stem": 8, "blocks": ((16, False), (16, True))}),
        "vgg_small": ((16, 16, 3), {"convolutions": ((8, False), (8, True), (16, True), (16, True))}),
        **{f"wrn_20_{width}": ((16, 16, 3), {"depth": 8, "width": width / 2}) for width in (1, 2, 10)},
    }[name]
    return build_network(name, scheme, input_shape or smallest, classes, **{**options, **sizes})


EXPORTED = {
    "packed": "model.safetensors",
    "tflite": "model.tflite",
    "openvino": "model.xml",
    "saved_model": "model",
    "onnx": "model.onnx",
    "c": "model.c",
}


def export_trained(tmp_path_factory, trained, data_dir):
    """Return a folder with the run `trained` in every format, named as in `EXPORTED`. Exported once; read it only."""

    def export(folder):
        from bnn_keras import export_run

        for to, name in EXPORTED.items():
            export_run(trained, to, folder / name, data_dir=data_dir)

    return once(tmp_path_factory, "exported", export)


def network_with_binary_kernels(seed):
    """Return a float network whose second convolution and dense layer have kernels ±α; their inputs are real."""
    import tensorflow as tf

    random, layers = np.random.default_rng(seed), tf.keras.layers
    x = images = tf.keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 3, padding="same", use_bias=False, name="real")(x)
    x = layers.Conv2D(7, 3, use_bias=False, name="binary")(x)  # 315 weights
    x = layers.Dense(4, name="logits")(layers.Flatten()(layers.ReLU()(x)))
    model = tf.keras.Model(images, x)
    for name, alpha in (("binary", random.uniform(0.5, 1.5, 7)), ("logits", 1)):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(random.normal(size=kernel.shape) > 0, alpha, -alpha))
    return model
