"""Verify every scheme × network × bits × (latent weights, Bop), on shallow variants of the networks."""

import larq
import numpy as np
import pytest
import tensorflow as tf
from helpers import small_network

from bnn_keras import catalog, export_model
from bnn_keras.build import build_network, build_optimizer, build_scheme
from bnn_keras.constraints import apply_constraints
from bnn_keras.counts import binary_variables
from bnn_keras.errors import BnnError
from bnn_keras.experiment import OptimizerConfig, resolve
from bnn_keras.export import open_export
from bnn_keras.export.predictors import with_keras

OPTIMIZERS = {"latent": "adam_torch", "bop": "bop"}
# Networks and structures that all cases train: a plain one, and a residual one with activations.
TRAINED = (("lenet5", None), ("resnet20", "bireal"))
NETWORKS = [name for name in catalog.NETWORKS if not name.startswith("zoo/")]


def _cases(scheme):
    """Return bits and kind of weights of every case of a scheme."""
    cases = [(bits, weights) for bits in catalog.SCHEMES[scheme].bits for weights in OPTIMIZERS]
    return [(bits, weights) for bits, weights in cases if weights != "bop" or bits.startswith("1/")]


def _table():
    """Yield network, structure, scheme, bits, kind of weights, and whether to pack, of every test case.

    One or two schemes of each network are in CI: schemes, bits and kinds of weights take turns, so that it sees all of
    them. The others are nightly. All cases of the networks of `TRAINED` are trained too, without packing them: those
    of LeNet-5 by the quick tests.
    """
    schemes = [name for name in catalog.SCHEMES if name != "zoo"]
    for number, network in enumerate(NETWORKS):
        structures = ("bireal", "normal") if network == "resnet20" else (None,)
        for structure in structures:
            for place, scheme in enumerate(schemes):
                cases = _cases(scheme)
                for case, (bits, weights) in enumerate(cases):
                    name = "-".join(filter(None, (network, structure, scheme, bits, weights)))
                    values = (network, structure, scheme, bits, weights)
                    turn = number + place
                    slow = turn % 5 == 0 and case == turn % len(cases)
                    mark = pytest.mark.slow if slow else pytest.mark.nightly
                    yield pytest.param(*values, True, id=f"{name}-packed", marks=mark)
                    if (network, structure) in TRAINED:
                        marks = [] if network == "lenet5" else pytest.mark.slow
                        yield pytest.param(*values, False, id=name, marks=marks)


def build(network, scheme, bits, optimizer, structure=None):
    experiment = resolve(network, scheme=scheme, bits=bits, optimizer=optimizer).experiment
    tf.keras.utils.set_random_seed(3)
    model = small_network(
        network,
        build_scheme(experiment),
        **{**experiment.network.choices, **({"structure": structure} if structure else {})},
    )
    apply_constraints(model)
    return model


def has_one_magnitude_per_filter(variable):
    with larq.context.quantized_scope(True):
        quantized = tf.convert_to_tensor(variable).numpy()
    magnitude = np.abs(quantized).reshape(-1, quantized.shape[-1])
    return np.allclose(magnitude, magnitude[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("network", "structure", "scheme", "bits", "weights", "packs"), list(_table()))
def test_trains_one_step_and_is_saved(network, structure, scheme, bits, weights, packs, tmp_path):
    """The weights in a file; and if the case says so, the network in a packed file that predicts the same."""
    model = build(network, scheme, bits, OPTIMIZERS[weights], structure)
    assert bool(binary_variables(model)) == bits.startswith("1/")

    random = np.random.default_rng(5)
    images = random.normal(0, 1, (4, *model.input_shape[1:])).astype(np.float32)
    labels = np.arange(4) % 10
    before = [variable.numpy() for variable in model.trainable_variables]
    # With gamma 1 and threshold 0, Bop flips some weight of each kernel in the first step.
    options = {"threshold": 0.0, "gamma": 1.0} if weights == "bop" else {}
    optimizer = build_optimizer(OptimizerConfig(name=OPTIMIZERS[weights], learning_rate=0.01, **options), epochs=1)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    assert np.isfinite(model.train_on_batch(images, labels))
    unchanged = [
        variable.name
        for variable, old in zip(model.trainable_variables, before, strict=True)
        if np.array_equal(old, variable.numpy())
        and not variable.name.endswith("/slope:0")  # of PReLUs, whose inputs can all be positive
    ]
    assert not unchanged
    assert all(has_one_magnitude_per_filter(variable) for variable in binary_variables(model))
    if weights == "bop":
        assert all(set(np.unique(variable.numpy())) <= {-1.0, 1.0} for variable in binary_variables(model))

    model.save_weights(tmp_path / "weights.h5")
    trained = model.get_weights()
    # In training mode: after one step, running statistics do not yet match activations with scales of √n per layer.
    outputs = model(images, training=True).numpy()
    assert np.isfinite(outputs).all()
    model.set_weights([np.ones_like(value) for value in trained])
    model.load_weights(tmp_path / "weights.h5")
    assert all(np.array_equal(*pair) for pair in zip(trained, model.get_weights(), strict=True))
    assert np.array_equal(outputs, model(images, training=True))
    if packs:
        file = tmp_path / "model.safetensors"
        # Of random weights, four images are no sample of which an agreement could be asked.
        sidecar = export_model(model, "packed", file, verify_on=images, min_agreement=0, tolerance=1e9)
        assert sidecar["packed_layers"] == len(binary_variables(model))
        # Both compiled, and to rounding: oneDNN joins operations of a graph, and others if kernels are constants.
        predicted, expected = open_export(file).logits(images), with_keras(model)(images)
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# One of Larq Zoo's own networks, one of the literature, one with large dense layers; the others are nightly.
ZOO = ("zoo/quicknet_small", "zoo/xnornet", "zoo/birealnet")


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ZOO else pytest.mark.nightly)
        for name in catalog.NETWORKS
        if name.startswith("zoo/")
    ],
)
def test_larq_zoo_network_returns_logits(network):
    size = 224 if network == "zoo/xnornet" else 64  # smallest last map of xnornet is 6 × 6
    model = build_network(network, build_scheme(resolve("zoo/quicknet").experiment), (size, size, 3), 10)
    images = np.random.default_rng(5).normal(0, 1, (1, size, size, 3)).astype(np.float32)
    logits = model(images).numpy()
    assert logits.shape == (1, 10)
    assert not np.allclose(logits.sum(), 1)  # no softmax
    assert binary_variables(model)


@pytest.mark.parametrize("scheme", [name for name in catalog.SCHEMES if name != "zoo"])
def test_saved_model_equals_original(scheme, tmp_path):
    model = build("lenet5", scheme, catalog.SCHEMES[scheme].bits[0], "adam")
    model.save(tmp_path / "model.keras")
    copy = tf.keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(6).normal(0, 1, (2, 28, 28, 1)).astype(np.float32)
    assert np.array_equal(model(images), copy(images))


@pytest.mark.parametrize("function", ["relu", "leaky_clip", "clip"])
def test_float_scheme_has_the_chosen_activation(function):
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
def test_input_quantizer_depends_on_bits_and_kind_of_inputs(bits, inputs, expected):
    quantizer = build_scheme(resolve("lenet5", bits=bits).experiment).conv2d(2, 3, inputs=inputs).input_quantizer
    assert (type(quantizer).__name__ if quantizer else None) == expected


def test_bop_needs_binary_kernels():
    with pytest.raises(BnnError, match="Bop has nothing to flip with scheme 'float'"):
        resolve("lenet5", scheme="float", optimizer="bop")


def test_irnet_layers_share_t_and_k():
    scheme = build_scheme(resolve("resnet20").experiment)
    convolution, dense = scheme.conv2d(2, 3), scheme.dense(2)
    assert (
        convolution.kernel_quantizer.annealed is dense.kernel_quantizer.annealed is convolution.input_quantizer.annealed
    )
