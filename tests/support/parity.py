"""A network against the golden values of its reference: the largest difference of each kind.

Stands on its own, so that tests and the table of networks (docs/networks.py) can load it by its place.
"""

import numpy as np
import tensorflow as tf

from bnn_keras import interop
from bnn_keras.build import build_model
from bnn_keras.constraints import apply_constraints
from bnn_keras.experiment import resolve
from bnn_keras.quantizers import annealed_of

# The network, its bits, and the keys beside them, that each golden is a reference of.
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
    "s3_binarynet": ("binarynet", {"optimizer": "bop"}, []),
    "s3_binary_alexnet": ("binary_alexnet", {"optimizer": "bop"}, []),
    "s3_xnornet": ("xnornet", {"optimizer": "bop"}, []),
    "s3_birealnet": ("birealnet18", {"optimizer": "bop"}, ["network.variant=rethinking"]),
}
ROTATED = ("xnor_nin", "wrn_", "birealnet", "irnet_cifar_resnet", "irnet_imagenet")  # where strides meet padding
LOOSE = {"irnet_imagenet_resnet34_1w32a": 1e-5}  # its training steps are chaotic
# With t = 5 each of IR-Net's signs multiplies gradients by up to 5. In ResNet-34 they reach 3e10 and kernels grow to
# 7e6: what rounding leaves of other weights differs by 6e-6, and the output after the steps is another. In ResNet-20
# one rounding of the input (2e-16) moves weights by 1e-8. Gradients and losses stand; with t = 0.1 and 1 all agree.
CHAOTIC = "t5/"
STEP_SIZE = 0.01


def tolerances(name):
    """What each difference may be at most."""
    steps = LOOSE.get(name, 1e-8)
    return {
        "output": 1e-9,
        "loss": 1e-9,
        "gradient": 1e-8,
        "gradient_float32": 1e-6,
        "statistics": 1e-6,
        "steps": steps,
        "weights": steps,
        "output_after": steps,
    }


def build(name):
    """The network that a golden is a reference of, with fresh weights."""
    network, options, keys = NETWORKS[name]
    rotated = ["network.rotated=true"] if name.startswith(ROTATED) else []
    return build_model(resolve(network, **options, overrides=[*keys, *rotated]).experiment)


def distance(ours, reference):
    """The largest difference, relative to the reference's largest value."""
    return float(np.max(np.abs(np.asarray(ours) - reference)) / np.max(np.abs(reference)))


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def compare(path, procedural):
    """Runs a network against its golden file.

    Returns:
        {kind: largest relative difference}, the kinds those of `tolerances`.
    """
    golden, meta, _, weights, images, labels = procedural.load(path)
    return Comparison(path.stem, golden, meta, weights, images, labels).differences


class Evaluation:
    """A network with a golden's weights, in the float type that is set, and the golden's images."""

    def __init__(self, name, meta, weights, images):
        self.keras = meta.get("layout", "").startswith("keras")
        self.log_softmax = meta.get("returns") == "log_softmax"
        images = images if self.keras else images.transpose(0, 2, 3, 1)
        self.images = tf.constant(images, tf.keras.backend.floatx())
        self.model = build(name)
        interop.load_reference(self.model, weights)

    def output(self, training=False):
        logits = self.model(self.images, training=training)
        return tf.nn.log_softmax(logits) if self.log_softmax else logits

    def distance(self, reference):
        return distance(self.output(), reference)


class Comparison(Evaluation):
    """One golden file against the network, in float64: evaluation, training, five steps."""

    def __init__(self, name, golden, meta, weights, images, labels):
        super().__init__(name, meta, weights, images)
        self.name, self.golden, self.meta, self.labels = name, golden, meta, labels
        self.fields = set(golden.files)
        self.differences = {}
        # The first maximum of a pool is the last one of the turned network.
        self.ties_last = "tielast/loss_steps" in self.fields and name.startswith(ROTATED)
        self.note("output", self.distance(golden["eval_out"]))
        if "train_out" not in self.fields:
            return
        for k, t in meta.get("kt", [(None, None)]):
            self.prefix = f"t{t:g}/" if k else ""
            interop.load_reference(self.model, weights)
            for annealed in annealed_of(self.model):
                annealed.assign(k=k, t=t)
            self.train(self.flip if "binary" in meta else self.descend)

    def note(self, kind, difference):
        self.differences[kind] = max(self.differences.get(kind, 0.0), float(difference))

    def field(self, name):
        """A field's full name: with (k, t) in front, or of ties that go to the last maximum."""
        return f"{'tielast/' if self.ties_last else self.prefix}{name}"

    def step(self):
        """One pass in training mode: output, loss, gradients by variable, gradient of the images."""
        variables = self.model.trainable_variables
        latents = [getattr(variable, "latent_variable", variable) for variable in variables]
        with tf.GradientTape() as tape:
            tape.watch(self.images)
            output = self.output(training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, output))
        *gradients, of_images = tape.gradient(loss, [*latents, self.images])
        return output, loss, list(zip(gradients, variables, strict=True)), of_images

    def descend(self, number, gradients):
        """w ← w − 0.01 g, then the constraints."""
        for gradient, variable in gradients:
            variable.assign_sub(tf.constant(STEP_SIZE, tf.float64) * gradient)
        if number == 4:
            self.after_update = interop.to_reference(self.model)
        apply_constraints(self.model)

    def flip(self, number, gradients):
        """One step of Bop for the binary kernels, of Adam for all else."""
        if number == 0:
            self.moments = [[np.zeros(variable.shape)] * 2 for _, variable in gradients]
        flips = 0
        for place, (gradient, variable) in enumerate(gradients):
            w, g, (m, v) = variable.numpy(), gradient.numpy(), self.moments[place]
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
            self.moments[place] = [m, v]
            variable.assign(new)
        self.note("steps", abs(flips - self.golden["flips"][number]))

    def train(self, update):
        """Five steps on the same batch."""
        golden = self.golden
        losses = []
        for number in range(5):
            output, loss, gradients, of_images = self.step()
            losses.append(float(loss))
            if number == 0:
                self.note("output", distance(output, golden["train_out"]))
                self.note("loss", distance(loss, golden["train_loss"]))
                self.check_gradients(gradients, of_images)
                self.check_statistics()
            update(number, gradients)
        expected = golden[self.field("loss_steps")]
        scale = np.abs(expected[0]) if "binary" in self.meta else np.abs(expected)  # some learn by heart and end near 0
        self.note("steps", np.max(np.abs(np.array(losses) - expected) / scale))
        if self.ties_last or (self.prefix == CHAOTIC and self.name.endswith("1w1a")):
            return  # nothing further is stored for the one, or can be compared for the other
        self.check_norms("param_norm_after", getattr(self, "after_update", {}))
        self.check_norms("latent_norm_after_eval", interop.to_reference(self.model))
        self.note("output_after", self.distance(golden[self.field("eval_out_after")]))

    def check_norms(self, field, tensors):
        prefix = self.field(f"{field}/")
        for key in self.fields:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name in tensors:
                self.note("weights", abs(np.linalg.norm(tensors[name]) - self.golden[key]) / self.golden[key])

    def check_statistics(self):
        """Running mean and variance after one step, which are stored in float32."""
        ours = interop.to_reference(self.model)
        for key in self.fields:
            name = key.removeprefix("rstat/")
            if key.startswith("rstat/") and name in ours:
                self.note("statistics", distance(ours[name], self.golden[key]))

    def check_gradients(self, gradients, of_images):
        names = interop.reference_names(self.model, [variable for _, variable in gradients])
        values = {name: gradient.numpy() for name, (gradient, _) in zip(names, gradients, strict=True)}
        ours = {**interop.to_reference(self.model, values), "__input__": of_images.numpy()}
        if not self.keras:
            ours["__input__"] = ours["__input__"].transpose(0, 3, 1, 2)
        norms = self.field("grad_norm/")
        expected = {key.removeprefix(norms): self.golden[key] for key in self.fields if key.startswith(norms)}
        if set(expected) - {"__input__"} != set(ours) - {"__input__"}:
            raise AssertionError(f"gradients of other tensors: {set(expected) ^ set(ours)}")
        # Biases in front of a batch norm have gradients that are zero but for rounding: the slack is theirs.
        slack = 1e-12 * max(expected.values())
        for name, norm in expected.items():
            self.note("gradient", max(0, abs(np.linalg.norm(ours[name]) - norm) - slack) / max(norm, slack))
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
                    error = max(0, np.max(np.abs(part - reference)) - slack) / max(np.max(np.abs(reference)), slack)
                    self.note(kind, error)
