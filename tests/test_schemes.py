"""One table of schemes × networks × bits × (latent weights, Bop): what holds for each entry."""

import larq
import numpy as np
import pytest
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.build import build_network, build_optimizer, build_scheme
from bnn_keras.constraints import apply_constraints
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.experiment import OptimizerConfig, resolve

OPTIMIZERS = {"latent": "adam_torch", "bop": "bop"}
# Images as small as a network allows, and what else keeps the large ones quick.
SMALLEST = {"alexnet": 67, "binary_alexnet": 64, "xnornet": 217, "birealnet": 32, "resnet18": 32, "resnet34": 32}
# Small ones with everything; the others with what their papers have, and all else where time does not matter.
QUICK = ("lenet5", "wrn_20_1", "resnet20")


def _table():
    for network, row in catalog.NETWORKS.items():
        for scheme, offered in catalog.SCHEMES.items():
            if (scheme == "zoo") or network.startswith("zoo/"):
                continue
            for bits in offered.bits:
                for weights in OPTIMIZERS:
                    if scheme == "float" and weights == "bop":
                        continue
                    own = (scheme, bits) == (row.scheme, row.bits)
                    marks = [] if network in QUICK or own else [pytest.mark.slow]
                    yield pytest.param(network, scheme, bits, weights, marks=marks)


def input_shape(network):
    height, _, channels = catalog.NETWORKS[network].input_shape
    size = next((size for name, size in SMALLEST.items() if network.startswith(name)), height)
    return (size, size, channels)


def build(network, scheme, bits, optimizer):
    experiment = resolve(network, scheme=scheme, bits=bits, optimizer=optimizer).experiment
    structure = {"structure": experiment.network.structure} if experiment.network.structure else {}
    tf.keras.utils.set_random_seed(3)
    model = build_network(
        network, build_scheme(experiment), input_shape(network), 10, **experiment.network.choices, **structure
    )
    apply_constraints(model)
    return model


def two_valued(variable):
    """Whether each output channel of a kernel has two values, of one magnitude, at the most."""
    with larq.context.quantized_scope(True):
        quantized = tf.convert_to_tensor(variable).numpy()
    magnitude = np.abs(quantized).reshape(-1, quantized.shape[-1])
    return np.allclose(magnitude, magnitude[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("network", "scheme", "bits", "weights"), list(_table()))
def test_entry(network, scheme, bits, weights, tmp_path):
    optimizer = OPTIMIZERS[weights]
    model = build(network, scheme, bits, optimizer)
    assert bool(binary_variables(model)) == bits.startswith("1/")

    random = np.random.default_rng(5)
    images = random.normal(0, 1, (4, *model.input_shape[1:])).astype(np.float32)
    labels = np.arange(4) % 10
    before = [variable.numpy() for variable in model.trainable_variables]
    # Bop's step is large and its threshold 0, so that some weight is sure to turn.
    own = {"threshold": 0.0, "gamma": 1.0} if weights == "bop" else {}
    optimizer = build_optimizer(OptimizerConfig(name=optimizer, learning_rate=0.01, **own), epochs=1)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    assert np.isfinite(model.train_on_batch(images, labels))
    unmoved = [
        variable.name
        for variable, old in zip(model.trainable_variables, before, strict=True)
        if np.array_equal(old, variable.numpy())
    ]
    assert not unmoved
    assert all(two_valued(variable) for variable in binary_variables(model))
    if weights == "bop":
        assert all(set(np.unique(variable.numpy())) <= {-1.0, 1.0} for variable in binary_variables(model))

    model.save_weights(tmp_path / "weights.h5")
    trained = model.get_weights()
    # In training mode: after one step running statistics fit no deep network with scales of √n for each layer.
    outputs = model(images, training=True).numpy()
    assert np.isfinite(outputs).all()
    model.set_weights([np.ones_like(value) for value in trained])
    model.load_weights(tmp_path / "weights.h5")
    assert all(np.array_equal(*pair) for pair in zip(trained, model.get_weights(), strict=True))
    assert np.array_equal(outputs, model(images, training=True))


@pytest.mark.parametrize("network", [name for name in catalog.NETWORKS if name.startswith("zoo/")])
@pytest.mark.slow
def test_larq_zoo(network):
    model = build_network(network, build_scheme(resolve("zoo/quicknet").experiment), (224, 224, 3), 10)
    images = np.random.default_rng(5).normal(0, 1, (1, 224, 224, 3)).astype(np.float32)
    logits = model(images).numpy()
    assert logits.shape == (1, 10)
    assert not np.allclose(logits.sum(), 1)  # before the softmax
    assert binary_variables(model)


@pytest.mark.parametrize("scheme", [name for name in catalog.SCHEMES if name != "zoo"])
def test_model_survives_serialization(scheme, tmp_path):
    model = build("lenet5", scheme, catalog.SCHEMES[scheme].bits[0], "adam")
    model.save(tmp_path / "model.keras")
    copy = tf.keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(6).normal(0, 1, (2, 28, 28, 1)).astype(np.float32)
    assert np.array_equal(model(images), copy(images))


@pytest.mark.parametrize("function", ["relu", "leaky_clip", "clip"])
def test_activation_in_the_place_of_the_signs(function):
    """Bi-Real Net's first recipe trains with these before it binarizes."""
    scheme = build_scheme(
        resolve("birealnet18", scheme="float", overrides=[f"scheme.activation={function}"]).experiment
    )
    layer = scheme.conv2d(4, 3, use_bias=False)
    assert (layer.input_quantizer.function, layer.kernel_quantizer) == (function, None)


@pytest.mark.parametrize(
    ("bits", "inputs", "expected"),
    [
        ("1/1", "features", "XnorSign"),
        ("1/1", "activated", "XnorSign"),
        ("1/1", "images", None),
        ("1/32", "features", "RealActivation"),
        ("1/32", "activated", None),
        ("1/32", "images", None),
    ],
)
def test_what_is_done_to_inputs(bits, inputs, expected):
    quantizer = build_scheme(resolve("lenet5", bits=bits).experiment).conv2d(2, 3, inputs=inputs).input_quantizer
    assert (type(quantizer).__name__ if quantizer else None) == expected


def test_bop_needs_binary_kernels():
    with pytest.raises(BnnError, match="Bop has nothing to flip with scheme 'float'"):
        resolve("lenet5", scheme="float", optimizer="bop")


def test_irnet_has_one_t_and_k_for_all_layers():
    scheme = build_scheme(resolve("resnet20").experiment)
    one, other = scheme.conv2d(2, 3), scheme.dense(2)
    assert one.kernel_quantizer.annealed is other.kernel_quantizer.annealed is one.input_quantizer.annealed
