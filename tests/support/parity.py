"""Compare a network with the golden values of its reference.

Used by tests/test_reference_parity.py and by docs/networks.py.
"""

import contextlib
import json
import multiprocessing
from pathlib import Path
from unittest import mock

import numpy as np
import procedural
import tensorflow as tf
from helpers import free_memory
from tf_keras import initializers

from bnn_keras import interop
from bnn_keras.build import build_network, build_scheme
from bnn_keras.constraints import apply_constraints
from bnn_keras.experiment import resolve

# Golden file: network, its scheme and bits, overridden experiment keys.
NETWORKS = {
    "xnor_lenet5": ("lenet5", {"bits": "1/1"}, []),
    "xnor_lenet5_clip": ("lenet5", {"bits": "1/1"}, []),
    "xnor_nin": ("nin", {"bits": "1/1"}, ["network.dropout=0"]),
    "xnor_alexnet": ("alexnet", {"bits": "1/1"}, ["network.dropout=0", "scheme.gradient_scale=1e9"]),
    **{
        f"wrn_20_{width}_{kind}_{data}": (f"wrn_20_{width}", {"dataset": data, **options}, [])
        for width, kind, options in (
            (1, "1bit", {"bits": "1/32"}),
            (1, "float", {"scheme": "float"}),
            (2, "1bit", {"bits": "1/32"}),
            (10, "1bit", {"bits": "1/32"}),
        )
        for data in ("cifar10", "cifar100")
    },
    "birealnet18": ("birealnet18", {"bits": "1/1"}, []),
    "birealnet34": ("birealnet34", {"bits": "1/1"}, []),
    "birealnet50": ("birealnet50", {"bits": "1/1"}, []),
    "irnet_cifar_resnet20_1w1a": ("resnet20", {"bits": "1/1"}, []),
    "irnet_cifar_resnet20_1w32a": ("resnet20", {"bits": "1/32"}, []),
    "irnet_cifar_vgg_small_1w1a": ("vgg_small", {"bits": "1/1"}, []),
    "irnet_cifar_resnet18_1w1a": ("resnet18_cifar", {"bits": "1/1"}, []),
    "irnet_imagenet_resnet18_1w1a": ("resnet18", {"bits": "1/1"}, []),
    "irnet_imagenet_resnet18_1w32a": ("resnet18", {"bits": "1/32"}, []),
    "irnet_imagenet_resnet34_1w1a": ("resnet34", {"bits": "1/1"}, []),
    "irnet_imagenet_resnet34_1w32a": ("resnet34", {"bits": "1/32"}, []),
    "reactnet_resnet18": ("birealnet18", {"scheme": "reactnet", "bits": "1/1"}, []),
    "reactnet_resnet18_step1": ("birealnet18", {"scheme": "reactnet", "bits": "32/1"}, []),
    "reactnet_a": ("reactnet_a", {"bits": "1/1"}, []),
    "reactnet_a_step1": ("reactnet_a", {"bits": "32/1"}, []),
    "reactnet_resnet34": ("birealnet34", {"scheme": "reactnet", "bits": "1/1"}, []),
    "recu_cifar_resnet20": ("resnet20", {"scheme": "recu", "bits": "1/1"}, ["network.variant=recu"]),
    "recu_cifar_vgg_small": ("vgg_small", {"scheme": "recu", "bits": "1/1"}, []),
    "recu_cifar_resnet18": ("resnet18_cifar", {"scheme": "recu", "bits": "1/1"}, ["network.variant=recu"]),
    "recu_imagenet_resnet18": ("resnet18", {"scheme": "recu", "bits": "1/1"}, ["network.variant=recu"]),
    "recu_imagenet_resnet34": ("resnet34", {"scheme": "recu", "bits": "1/1"}, ["network.variant=recu"]),
    "torchvision_resnet18": ("torchvision_resnet18", {}, []),
    "torchvision_resnet34": ("torchvision_resnet34", {}, []),
    "s3_binarynet": ("binarynet", {"optimizer": "bop"}, []),
    "s3_binary_alexnet": ("binary_alexnet", {"optimizer": "bop"}, []),
    "s3_xnornet": ("xnornet", {"optimizer": "bop"}, []),
    "s3_birealnet": ("birealnet18", {"optimizer": "bop"}, ["network.variant=rethinking"]),
}
ROTATED = (
    "xnor_nin",
    "wrn_",
    "birealnet",
    "irnet_cifar_resnet",
    "irnet_imagenet",
    "reactnet",
    "recu_cifar_resnet",
    "recu_imagenet",
    "torchvision",
)  # strides meet padding
STEP_SIZE = 0.01
# Networks with as many weights are compared in a process of their own: with oneDNN, TensorFlow keeps all memory that it
# ever took. For an AlexNet in float64 this is 2 GB.
LARGE = 30_000_000

# With t = 5 each sign of IR-Net multiplies gradients by up to 5. In ResNet-34 on 224 × 224 images they reach 3e10 and
# kernels grow to 7e6: rounding errors of other weights reach 6e-6, and the output after the steps is a different one.
# In ResNet-20 one rounding error of the input (2e-16) moves weights by 1e-8. So weights and outputs after the steps are
# compared for t = 0.1 and 1 only; gradients and losses are compared for all t. On 64 × 64 images everything is
# compared, with the weights within 1e-6.
CHAOTIC = "t5/"


def is_small(path):
    """Return whether a golden file has 64 × 64 images instead of the original 224 × 224: its folder is `small`."""
    return Path(path).parent.name == "small"


def golden_files(folder):
    """Return the golden files of `NETWORKS` in a folder and in its folder `small`. Other files are ignored."""
    candidates = [path for name in NETWORKS for path in (folder / "small" / f"{name}.npz", folder / f"{name}.npz")]
    return [path for path in candidates if path.is_file()]


def tolerances(name, small=False):
    """Return the largest difference allowed, by kind."""
    # The training steps of this network on large images are chaotic.
    steps = 1e-5 if name == "irnet_imagenet_resnet34_1w32a" and not small else 1e-8
    return {
        "output": 1e-9,
        # A sign flips in float32, on some machines: the reference's own float32 output of birealnet50 differs by 0.5 %.
        "output_float32": 1e-2 if name in ("birealnet50", "s3_birealnet") and not small else 1e-5,
        "loss": 1e-9,
        "gradient": 1e-8,
        "gradient_float32": 1e-6,
        "statistics": 1e-6,
        "steps": steps,
        "weights": steps,
        "weights_chaotic": 1e-6,
        "output_after": steps,
    }


def build(name, input_shape, classes):
    """Build the network of a golden file for images (height, width, channels), with zeros for random weights.

    The random numbers of an AlexNet in float64 would take another 0.7 GB.
    """
    network, options, overrides = NETWORKS[name]
    experiment = resolve(network, **options, overrides=overrides).experiment
    with contextlib.ExitStack() as stack:
        for initializer in (initializers.RandomNormal, initializers.RandomUniform, initializers.VarianceScaling):
            stack.enter_context(mock.patch.object(initializer, "__call__", _zeros))
        return build_network(
            network,
            build_scheme(experiment),
            input_shape,
            classes,
            rotated=name.startswith(ROTATED),
            **experiment.network.choices,
        )


def _zeros(_, shape, dtype=None, **__):
    return tf.zeros(shape, dtype)


def magnitude(reference):
    """Return |reference|, or 1 where the reference is exactly 0, so that the difference there is absolute."""
    reference = np.abs(reference)
    return np.where(reference == 0, 1.0, reference)


def distance(ours, reference):
    """Return the largest difference, relative to the largest value of the reference."""
    return float(np.max(np.abs(np.asarray(ours) - reference)) / magnitude(np.max(np.abs(reference))))


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def compare(path, float32=False, temperatures=None):
    """Compare a network with its golden file.

    Args:
        path: The golden file.
        float32: Also evaluate the network in float32.
        temperatures: Values of IR-Net's t or ReCU's τ to train with; all of the golden file by default. An empty tuple
            leaves out the training of any network.

    Returns:
        {kind: largest relative difference}, with the kinds of `tolerances`.
    """
    arguments = (path, float32, temperatures)
    if weights_of(path) < LARGE:
        return _compare(*arguments)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_compare, arguments)


def weights_of(path):
    """Return the number of weights in a golden file."""
    with np.load(path, allow_pickle=False) as golden:
        return sum(int(np.prod(shape)) for _, shape, _ in json.loads(str(golden["names"])))


def _compare(path, float32, temperatures):
    golden, meta, _, weights, images, labels = procedural.load(path)
    tf.keras.backend.set_floatx("float64")
    try:
        differences = Comparison(path, golden, meta, weights, images, labels, temperatures).differences
    finally:
        tf.keras.backend.set_floatx("float32")
    if float32:
        free_memory()  # of the network in float64, before the one in float32 is built
        evaluation = Evaluation(path.stem, meta, weights, images)
        differences["output_float32"] = distance(evaluation.output(), golden["eval_out"])
    return differences


def annealed_values(meta):
    """Return the annealed values of a golden file, by that of IR-Net's t or ReCU's τ; one empty entry without them."""
    pairs = {t: {"t": t, "k": k} for k, t in meta.get("kt", [])}
    return pairs or {tau: {"tau": tau} for tau in meta.get("tau", [])} or {None: {}}


class Evaluation:
    """A network with the weights and images of a golden file, in Keras's current float type."""

    def __init__(self, name, meta, weights, images):
        self.keras = meta.get("layout", "").startswith("keras")
        self.log_softmax = meta.get("returns") == "log_softmax"
        images = images if self.keras else images.transpose(0, 2, 3, 1)
        self.images = tf.constant(images, tf.keras.backend.floatx())
        self.model = build(name, images.shape[1:], meta["classes"])
        interop.load_reference(self.model, weights)

    def output(self, training=False):
        logits = self.model(self.images, training=training)
        return tf.nn.log_softmax(logits) if self.log_softmax else logits


class Comparison(Evaluation):
    """Compare one golden file with its network: evaluation, training output, gradients, five training steps."""

    def __init__(self, path, golden, meta, weights, images, labels, temperatures):
        name = path.stem
        super().__init__(name, meta, weights, images)
        self.name, self.golden, self.meta, self.labels = name, golden, meta, labels
        self.fields = set(golden.files)
        self.differences = {}
        self.after_update = {}
        self.small = is_small(path)
        # The first maximum of a pool is the last one in the rotated network.
        self.ties_last = "tielast/loss_steps" in self.fields and name.startswith(ROTATED)
        self.note("output", distance(self.output(), golden["eval_out"]))
        if "train_out" not in self.fields or temperatures == ():
            return
        for temperature, annealed in annealed_values(meta).items():
            if temperatures and temperature not in temperatures:
                continue
            self.prefix = "".join(f"{name}{temperature:g}/" for name in ("t", "tau") if name in annealed)
            interop.load_reference(self.model, weights)
            if self.model.scheme.annealed:
                self.model.scheme.annealed.assign(**annealed)
            self.train(self.flip if "binary" in meta else self.descend)

    def note(self, kind, difference):
        # Python's max ignores NaN, NumPy's returns it.
        self.differences[kind] = float(np.maximum(self.differences.get(kind, 0.0), difference))

    def field(self, name):
        """Return the full name of a field: with the prefix of (k, t) or τ, or of ties that go to the last maximum."""
        return f"{'tielast/' if self.ties_last else self.prefix}{name}"

    def step(self):
        """Return output, loss, (gradient, variable) pairs and the gradient of the images, in training mode."""
        variables = self.model.trainable_variables
        latents = [getattr(variable, "latent_variable", variable) for variable in variables]
        with tf.GradientTape() as tape:
            tape.watch(self.images)
            output = self.output(training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, output))
        *gradients, image_gradient = tape.gradient(loss, [*latents, self.images])
        return output, loss, list(zip(gradients, variables, strict=True)), image_gradient

    def descend(self, number, gradients):
        """Update w ← w − 0.01 g, then apply the constraints."""
        for gradient, variable in gradients:
            variable.assign_sub(tf.constant(STEP_SIZE, tf.float64) * gradient)
        if number == 4:
            self.after_update = interop.to_reference(self.model)
        apply_constraints(self.model)

    def flip(self, number, gradients):
        """Take one step of Bop for binary kernels, and of Adam for all other variables."""
        if number == 0:
            self.moments = [[np.zeros(variable.shape)] * 2 for _, variable in gradients]
        flips = 0
        for index, (gradient, variable) in enumerate(gradients):
            w, g, (m, v) = variable.numpy(), gradient.numpy(), self.moments[index]
            if getattr(variable, "precision", None) == 1:
                m = m + self.meta["gamma"] * (g - m)
                new = sign(-np.sign(w * m - self.meta["threshold"]) * w)
                flips += np.count_nonzero(np.sign(w) != new)
            else:
                adam, s = self.meta["adam"], number + 1
                m = adam["beta_1"] * m + (1 - adam["beta_1"]) * g
                v = adam["beta_2"] * v + (1 - adam["beta_2"]) * g**2
                rate = adam["lr"] * np.sqrt(1 - adam["beta_2"] ** s) / (1 - adam["beta_1"] ** s)
                new = w - rate * m / (np.sqrt(v) + adam["epsilon"])
            self.moments[index] = [m, v]
            variable.assign(new)
        self.note("steps", abs(flips - self.golden["flips"][number]))

    def train(self, update):
        """Take five training steps on the same batch."""
        golden = self.golden
        losses = []
        for number in range(5):
            output, loss, gradients, image_gradient = self.step()
            losses.append(float(loss))
            if number == 0:
                self.note("output", distance(output, golden["train_out"]))
                self.note("loss", distance(loss, golden["train_loss"]))
                self.check_gradients(gradients, image_gradient)
                self.check_statistics()
            update(number, gradients)
            del gradients, image_gradient  # their memory is needed for those of the next step
        expected = golden[self.field("loss_steps")]
        # Some networks overfit the batch under Adam: their loss ends near 0.
        scale = expected[0] if "binary" in self.meta else expected
        self.note("steps", np.max(np.abs(np.array(losses) - expected) / magnitude(scale)))
        self.chaotic = self.prefix == CHAOTIC and self.name.endswith("1w1a")
        if self.ties_last or (self.chaotic and not self.small):
            return  # the golden file has no further fields, or they cannot be compared
        self.check_norms("param_norm_after", self.after_update)
        self.check_norms("latent_norm_after_eval", interop.to_reference(self.model))
        self.note("output_after", distance(self.output(), golden[self.field("eval_out_after")]))

    def check_norms(self, field, tensors):
        prefix = self.field(f"{field}/")
        for key in self.fields:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name in tensors:
                reference = self.golden[key]
                difference = abs(np.linalg.norm(tensors[name]) - reference) / magnitude(reference)
                self.note("weights_chaotic" if self.chaotic else "weights", difference)

    def check_statistics(self):
        """Compare running means and variances after one step, which are stored in float32."""
        ours = interop.to_reference(self.model)
        for key in self.fields:
            name = key.removeprefix("rstat/")
            if key.startswith("rstat/") and name in ours:
                self.note("statistics", distance(ours[name], self.golden[key]))

    def check_gradients(self, gradients, image_gradient):
        names = interop.reference_names(self.model, [variable for _, variable in gradients])
        values = {name: gradient.numpy() for name, (gradient, _) in zip(names, gradients, strict=True)}
        ours = {**interop.to_reference(self.model, values), "__input__": image_gradient.numpy()}
        if not self.keras:
            ours["__input__"] = ours["__input__"].transpose(0, 3, 1, 2)
        norms = self.field("grad_norm/")
        expected = {key.removeprefix(norms): self.golden[key] for key in self.fields if key.startswith(norms)}
        if set(expected) - {"__input__"} != set(ours) - {"__input__"}:
            raise AssertionError(f"gradients differ in their names: {sorted(set(expected) ^ set(ours))}")
        # Biases in front of a batch norm have gradients that are only rounding errors: they need the slack.
        slack = 1e-12 * max(expected.values())
        for name, norm in expected.items():
            error = np.maximum(0, abs(np.linalg.norm(ours[name]) - norm) - slack)
            self.note("gradient", error / magnitude(max(norm, slack)))
        for name, gradient in ours.items():
            flat = gradient.ravel()
            for field, part, kind in (
                ("grad_full", flat, "gradient_float32"),
                ("grad_head", flat[:64], "gradient"),
                ("grad_tail", flat[-64:], "gradient"),
            ):
                key = self.field(f"{field}/{name}")
                if key in self.fields:
                    reference = self.golden[key]
                    error = np.maximum(0, np.max(np.abs(part - reference)) - slack)
                    self.note(kind, error / magnitude(max(np.max(np.abs(reference)), slack)))
