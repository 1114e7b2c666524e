"""Write networks as C, compile and run them, also for other processors in an emulator."""

import dataclasses
import itertools
import re
import shutil
import subprocess

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT, small_network

from bnn_keras import layers as own
from bnn_keras import quantizers
from bnn_keras.build import build_model
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.export import c
from bnn_keras.export.c import compiler
from bnn_keras.export.c.steps import Chain, Copy, Map, Pointwise, Step, allocate, plan
from bnn_keras.export.constants import FloatLayers
from bnn_keras.export.freeze import freeze
from bnn_keras.export.job import ExportJob
from bnn_keras.export.random_weights import randomize_weights
from bnn_keras.schemes import irnet

keras = tf.keras.layers
BINARY = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}


def every_layer():
    """Return a network with every layer that can be written as C; no number of channels is a multiple of 32."""
    x = images = tf.keras.Input((11, 10, 3))
    x = own.Rotate180()(x)
    x = keras.ReLU(6)(keras.BatchNormalization()(keras.Conv2D(5, 3, 2, "same", activation="relu")(x)))
    left = quantizers.RealActivation("leaky_clip")(keras.MaxPool2D(3, 2, "same")(x))
    right = own.PadChannels(1, 1)(own.Subsample()(keras.Conv2D(3, 1)(x)))
    x = quantizers.ShiftedPReLU()(keras.Add()([left, right]))
    x = own.ScaledConv2D(
        34, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer=quantizers.DetachedScaledSign()
    )(x)
    x = keras.ZeroPadding2D(((1, 0), (0, 2)))(x)
    x = larq.layers.QuantConv2D(6, 2, input_quantizer=quantizers.RealActivation("clip"), **BINARY)(x)
    real = larq.layers.QuantConv2D(6, 1, input_quantizer="ste_sign")(x)
    shifted = larq.layers.QuantConv2D(6, 1, input_quantizer=quantizers.ShiftedSign(), **BINARY)(x)
    x = keras.Add()([real, shifted, x])
    x = keras.AveragePooling2D(2, padding="same")(keras.AveragePooling2D(2, 1, "same")(x))
    pooled = own.PaddedAveragePooling2D()(keras.Cropping2D(((1, 0), (0, 0)))(x))
    flat = keras.BatchNormalization()(keras.Flatten()(x))
    signs = larq.quantizers.SteSign()(larq.layers.QuantDense(7, input_quantizer="ste_sign", **BINARY)(flat))
    ends = [keras.Dense(4)(y) for y in (signs, keras.GlobalMaxPooling2D()(pooled), keras.GlobalAveragePooling2D()(x))]
    return tf.keras.Model(images, keras.Add()(ends), name="every_layer")


def job_of(model):
    return ExportJob(model, None, [str(label) for label in range(model.output_shape[-1])])


def small(filters=3, **options):
    x = tf.keras.Input((4, 4, 2))
    y = keras.Conv2D(filters, 3, name="convolution", **options)(x)
    return tf.keras.Model(x, keras.Dense(2, name="last")(keras.Flatten(name="flat")(y)), name="small")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The job of a network with every layer, its file, and random images."""
    tf.keras.utils.set_random_seed(1)
    model = every_layer()
    images = randomize_weights(model)
    job, file = job_of(model), tmp_path_factory.mktemp("c") / "network.c"
    assert c.convert(job, file) == FloatLayers({}, {})
    return job, file, images


def test_every_layer_computes_what_keras_computes(written):
    job, file, images = written
    expected = job.model(images, training=False).numpy()
    many = np.concatenate([images] * 5)  # more than run with sanitizers
    np.testing.assert_allclose(c.load(file)(many), np.concatenate([expected] * 5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(c.load_fast(file)(images), expected, rtol=1e-4, atol=1e-5)


def test_handlers_are_the_tested_layers(written):
    job, _, _ = written
    layers = [*job.model.layers, *freeze(job.model, job.kernels).layers]
    others = {keras.Activation, own.TorchBatchNormalization}  # of other tests
    assert set(c.steps.HANDLERS) == {type(layer) for layer in layers} - {keras.InputLayer} | others


def test_a_source_is_one_function_with_its_constants_and_buffers(written):
    _, file, _ = written
    text, header = file.read_text(), file.with_suffix(".h").read_text()
    assert re.findall(r"^(?!static)\w.*\)$", text, re.MULTILINE) == [
        "int bnn_predict(const float *image, float *logits)"
    ]
    assert not re.findall(r"malloc|string\.h|math\.h", text)
    constants = sum(4 * int(size) for size in re.findall(r"^static const \w+ \w+\[(\d+)\]", text, re.MULTILINE))
    buffers = re.findall(r"^static (?:float|uint32_t) \w+\[(\d+)\](?:\[(\d+)\])?;", text, re.MULTILINE)
    assert c.measure(file) == {
        "flash_bytes": constants,
        "ram_bytes": sum(4 * int(first) * int(second or 1) for first, second in buffers),
    }
    assert "#define BNN_INPUTS 330\n" in header


def test_int8_rounds_the_kernels_and_inputs_of_real_layers(tmp_path):
    model, files = small(padding="same"), {}
    images = np.concatenate([randomize_weights(model), np.zeros((1, 4, 4, 2), np.float32)])
    for floats in ("float32", "int8"):
        files[floats] = tmp_path / f"{floats}.c"
        c.convert(dataclasses.replace(job_of(model), floats=floats), files[floats])

    def rounded(values, axes):
        scale = np.abs(values).max(axes, keepdims=True) / 127
        return scale * np.rint(np.divide(values, scale, where=scale > 0, out=np.zeros_like(values)))

    x = images
    for layer in (model.get_layer("convolution"), model.get_layer("last")):
        x = rounded(x.reshape(len(x), -1), 1).reshape(x.shape)
        kernel = rounded(layer.kernel.numpy(), tuple(range(layer.kernel.shape.rank - 1)))
        layer.kernel.assign(kernel)
        x = layer(x.reshape(len(x), -1) if layer.name == "last" else x).numpy()
    np.testing.assert_allclose(c.load(files["int8"])(images), x, rtol=1e-4, atol=1e-5)
    kernels, inputs = 3 * 3 * 2 * 3 + 48 * 2, 48  # scales of filters, beside their biases: 3 and 2
    difference = {name: size - c.measure(files["float32"])[name] for name, size in c.measure(files["int8"]).items()}
    assert difference == {"flash_bytes": -3 * kernels + 4 * (3 + 2), "ram_bytes": inputs}


def test_maps_that_live_at_the_same_time_do_not_overlap():
    job = job_of(small_network("resnet20", irnet()))
    planned = plan(freeze(job.model, job.kernels), job.kernels)
    last = {map_: index for index, step in enumerate(planned.steps) for map_ in (step.output, *step.inputs)}
    first = {step.output: index for index, step in enumerate(planned.steps)}
    in_place = 0
    for one, other in itertools.combinations([map_ for map_ in first if map_.role == "buffer"], 2):
        together = first[other] <= last[one] and one.bits == other.bits
        if together and one.offset < other.offset + other.size and other.offset < one.offset + one.size:
            assert first[other] == last[one]
            assert planned.steps[first[other]].overwrites(one)
            in_place += 1
    assert in_place
    # The largest map and the one that a shrinking block computes from it, 16 × 16 × 8 and 8 × 8 × 16; signs of a map.
    assert (planned.reals, planned.words) == (16 * 16 * 8 + 8 * 8 * 16, 16 * 16)


def test_a_step_does_not_overwrite_what_it_reads_elsewhere():
    one, moved = Map((2, 2, 1)), Map((2, 2, 1))
    same = Chain(Copy(one), (2, 2, 1), (2, 2, 1), before=[Pointwise("add", other=moved)])
    assert Step(same, Map((2, 2, 1))).overwrites(one)
    assert Step(same, Map((2, 2, 1))).overwrites(moved)
    shifted = Chain(Copy(one, offsets=(0, 1)), (2, 2, 1), (2, 2, 1), before=[Pointwise("add", other=one)])
    assert not Step(shifted, Map((2, 2, 1))).overwrites(one)
    steps = [Step(Chain(Copy(Map((2, 2, 1), role="image")), (2, 2, 1), (2, 2, 1)), one)]
    assert allocate([*steps, Step(shifted, Map((2, 2, 1)))]) == (8, 0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: small(dilation_rate=2, padding="same"), r"convolution \(a dilation rate of \(2, 2\)\)"),
        (
            lambda: tf.keras.Sequential([tf.keras.Input((4, 2)), keras.Flatten(), keras.Dense(2)]),
            r"cannot be written as C: its input \(a shape of \(4, 2\)\)",
        ),
        (lambda: small(activation="tanh"), r"convolution \(activation tanh\)"),
        (lambda: small(groups=2, filters=4), r"convolution \(2 input channels in groups of 1\)"),
        (
            lambda: tf.keras.Sequential([tf.keras.Input((4, 4, 2)), keras.UpSampling2D(name="up"), keras.Flatten()]),
            r"'.*' cannot be written as C: up \(UpSampling2D\); replace such layers, or use another format",
        ),
    ],
)
def test_layers_that_c_does_not_have_are_named(model, message, tmp_path):
    with pytest.raises(BnnError, match=message):
        c.convert(job_of(model()), tmp_path / "x.c")
    assert not list(tmp_path.iterdir())


def test_infinite_weights_are_an_error(tmp_path):
    model = small()
    model.get_layer("convolution").kernel.assign_add(np.full((3, 3, 2, 3), np.inf))
    with pytest.raises(BnnError, match="'convolution' has infinite or NaN values"):
        c.convert(job_of(model), tmp_path / "x.c")


def test_errors_of_the_file(written, tmp_path, monkeypatch):
    job, file, _ = written
    with pytest.raises(BnnError, match=r"'a\"b.c' cannot be the name of a C file; use letters"):
        c.convert(job, tmp_path / 'a"b.c')
    monkeypatch.setattr(c, "MAX_BYTES", 100)
    with pytest.raises(BnnError, match=r"the network has \d+ bytes of constants; expected at most 100"):
        c.convert(job, tmp_path / "x.c")
    with pytest.raises(BnnError, match="has a batch size of 1, got 3; use --batch-size 1"):
        c.load(file, batch_size=3)
    copy = shutil.copy(file, tmp_path / "copy.c")
    with pytest.raises(BnnError, match=r"cannot read '.*copy.h' \(.*\); keep it beside copy.c, or export again"):
        c.load(copy)


@pytest.mark.slow
def test_a_program_that_reads_out_of_bounds_fails(written, tmp_path):
    _, file, images = written
    text = re.sub(r"static float reals\[\d+\]", "static float reals[8]", file.read_text())
    (tmp_path / "x.c").write_text(text)
    shutil.copy(file.with_suffix(".h"), tmp_path / "x.h")
    with pytest.raises(BnnError, match=r"(the program of '.*x.c' fails|cannot compile '.*x.c') \(.*\); export again"):
        c.load(tmp_path / "x.c")(images)


def test_without_a_compiler_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    message = r"there is no C compiler: expected the command 'no-such-compiler' of \$CC; install one"
    with pytest.raises(BnnError, match=message):
        c.convert(job_of(small()), tmp_path / "x.c")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BnnError, match="expected one of cc, gcc, clang; install one"):
        compiler.find_compiler()


def test_the_documented_program_runs(written, tmp_path):
    _, file, _ = written
    (program,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs" / "deploying.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "main.c").write_text(program.replace("mine.h", file.with_suffix(".h").name))
    command = [*compiler.find_compiler(), *compiler.STRICT, f"-I{file.parent}", file, tmp_path / "main.c"]
    subprocess.run([*command, "-o", tmp_path / "main"], check=True)
    output = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(r"class [0-3], logit -?[\d.]+\n", output)


FOUR = ("lenet5", "resnet20", "vgg_small", "binarynet")


def installed(*commands):
    """Skip a test if a command of it is missing."""
    missing = [command for command in commands if not shutil.which(command)]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi, "
            "qemu-system-arm, gcc-aarch64-linux-gnu, qemu-user)"
        )


@pytest.fixture(scope="module", params=itertools.product(FOUR, ("float32", "int8")), ids=lambda param: "-".join(param))
def network(request, tmp_path_factory):
    """The C file of a network with random weights, two images, and the logits of Keras; with int8, of this machine."""
    name, floats = request.param
    model = build_model(resolve(name).experiment)
    images = randomize_weights(model)[:2]
    file = tmp_path_factory.mktemp("c") / f"{name}.c"
    c.convert(dataclasses.replace(job_of(model), floats=floats), file)
    return file, images, model(images, training=False).numpy() if floats == "float32" else c.load(file)(images)


def assert_same(logits, expected):
    assert (logits.argmax(-1) == expected.argmax(-1)).all()
    errors = np.linalg.norm(logits - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert np.median(errors) <= 1e-5


def run_on_cortex_m(file, images, folder, *options):
    """Return the logits of a network on a Cortex-M7 in QEMU, instructions per image, and bytes of flash and RAM."""
    bits = np.ascontiguousarray(images, np.float32).reshape(len(images), -1).view(np.uint32)
    rows = ",\n".join("{" + ",".join(f"0x{value:08x}u" for value in row) + "}" for row in bits)
    (folder / "images.h").write_text(
        f"#define IMAGES {len(bits)}\nstatic const uint32_t images[IMAGES][{bits.shape[1]}] = {{\n{rows}\n}};\n"
    )
    cortex = ROOT / "tests" / "support" / "cortex_m"
    target = ["-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"]
    gcc = ["arm-none-eabi-gcc", *target, *compiler.STRICT, *(options or ["-O2"]), "-ffreestanding"]
    subprocess.run([*gcc, "-c", file, "-o", folder / "network.o"], check=True)
    main = [
        f'-DBNN_HEADER="{file.stem}.h"',
        f"-I{file.parent}",
        f"-I{folder}",
        "-fno-strict-aliasing",
        cortex / "main.c",
    ]
    link = ["-nostartfiles", f"-T{cortex / 'mps2_an500.ld'}", "-o", folder / "program.elf"]
    relaxed = [option for option in gcc if option != "-pedantic"]
    subprocess.run([*relaxed, *main, folder / "network.o", *link], check=True)
    machine = ["qemu-system-arm", "-M", "mps2-an500", "-icount", "shift=0", "-nographic", "-semihosting"]
    command = [*machine, "-kernel", folder / "program.elf"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, stdin=subprocess.DEVNULL)
    words = np.array([[int(word, 16) for word in line.split()] for line in result.stderr.splitlines()], np.uint32)
    sizes = subprocess.run(["arm-none-eabi-size", folder / "network.o"], capture_output=True, text=True, check=True)
    text, data, zeros, *_ = map(int, sizes.stdout.splitlines()[1].split()[:3])
    return np.ascontiguousarray(words[:, 1:]).view(np.float32), int(words[:, 0].mean()), (text + data, data + zeros)


@pytest.mark.nightly
def test_a_microcontroller_computes_the_same_logits(network, tmp_path):
    installed("arm-none-eabi-gcc", "qemu-system-arm")
    file, images, expected = network
    logits, instructions, (flash, ram) = run_on_cortex_m(file, images, tmp_path)
    assert_same(logits, expected)
    measured = c.measure(file)
    print(f"\n{file.stem}: {measured}, flash {flash:,}, RAM {ram:,}, {instructions:,} instructions")
    assert measured["flash_bytes"] <= flash <= measured["flash_bytes"] + 16 * 1024
    assert measured["ram_bytes"] <= ram <= measured["ram_bytes"] + 64
    assert instructions > 100_000


@pytest.mark.nightly
def test_arm_linux_computes_the_same_logits(network, monkeypatch):
    installed("aarch64-linux-gnu-gcc", "qemu-aarch64")
    file, images, expected = network
    monkeypatch.setenv("CC", "aarch64-linux-gnu-gcc -static")
    compilation = compiler.Compilation(file)
    command = ["qemu-aarch64", compilation.program(["-O2"])]
    result = subprocess.run(command, input=images.astype(np.float32).tobytes(), capture_output=True, check=True)
    assert_same(np.frombuffer(result.stdout, np.float32).reshape(expected.shape), expected)
