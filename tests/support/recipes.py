"""Numbers of the references in tests/golden/recipes, and the same numbers derived from our built objects."""

import math
import sys
from pathlib import Path

import numpy as np

from bnn_keras.build import build_annealing, build_optimizer, build_schedules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[1] / "golden" / "recipes"
NOT_GIVEN = "not given"
STATUSES = ("exact", "exact but data", "reconstructed")
ROW_FIELDS = ("images", "normalization", "augmentation", "evaluation")
STAGE_FIELDS = (
    *("optimizer", "learning_rate", "weight_decay", "decayed"),
    *("batch", "steps_per_epoch", "epochs", "loss"),
)
# Classes of the references' optimizers → ours.
OPTIMIZERS = {
    "torch.optim.Adam": "TorchAdam",
    "torch.optim.SGD": "TorchSGD",
    "Caffe's SGD": "CaffeSGD",
    "Bop": "Bop",
    "tf.keras.optimizers.Adam": "Adam",
}


def file_of(name):
    """Return the golden file of an experiment."""
    return FOLDER / f"{name.replace('/', '-')}.toml"


def read(path):
    """Return a golden file over the one that it names as its base."""
    document = tomllib.loads(path.read_text())
    base = document.pop("base", None)
    return _merge(read(path.with_name(f"{base}.toml")), document) if base else document


def _merge(base, changes):
    """Return nested tables with changes; a table with a value is replaced as a whole."""
    if not (isinstance(base, dict) and isinstance(changes, dict)) or "value" in changes:
        return changes
    return {**base, **{key: _merge(base.get(key), value) for key, value in changes.items()}}


def distribution(formula, shape):
    """Return mean and standard deviation of a distribution such as "uniform(-fan_in**-0.5, fan_in**-0.5)".

    fan_in and fan_out are the numbers of weights of one output and of one input of a kernel with this shape, and
    channels its number of input channels.
    """
    names = {
        "normal": lambda mean, deviation: (mean, deviation),
        "uniform": lambda low, high: ((low + high) / 2, (high - low) / math.sqrt(12)),
        "constant": lambda value: (value, 0.0),
        "fan_in": math.prod(shape[:-1]),
        "fan_out": math.prod(shape[:-2]) * shape[-1],
        "channels": shape[-2] if len(shape) > 1 else 1,
    }
    # "uniform(…) * factor" scales the deviation.
    formula, _, factor = formula.partition(" * (1 - ")
    mean, deviation = eval(formula, {"__builtins__": {}}, names)
    return mean, deviation * (eval(f"(1 - {factor}", {"__builtins__": {}}, names) if factor else 1)


def roles(model):
    """Return [(role, variable, shape of the layer's kernel)] of all trainable variables."""
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    places = {kernels[0].name: "first kernel", kernels[-1].name: "last kernel"}
    found = []
    for layer in model.layers:
        for variable in layer.trainable_variables:
            name = variable.name.split("/")[-1].split(":")[0]
            place = "binary kernels" if hasattr(layer, "kernel_quantizer") else places.get(layer.name, "real kernels")
            role = {
                "kernel": place,
                "bias": "biases",
                "gamma": "scales" if len(layer.input_shape) > 2 else "vector scales",
                "beta": "shifts",
                "alpha": "alphas",
                "slope": "slopes",
            }.get(name, "moves")
            found.append((role, variable, layer.kernel.shape if hasattr(layer, "kernel") else variable.shape))
    return found


def deviates(values, mean, deviation):
    """Return whether values are not from a distribution, by seven standard errors of mean and deviation."""
    values = np.asarray(values, np.float64)
    if not deviation:
        return not np.allclose(values, mean, rtol=1e-6, atol=0)
    error = 7 / math.sqrt(values.size)
    return abs(values.mean() - mean) > error * deviation or abs(values.std() / deviation - 1) > error


def optimizer_of(stage):
    """Return class and hyper-parameters of a stage's built optimizer."""
    optimizer = build_optimizer(stage.optimizer, stage.epochs)
    config = optimizer.get_config()
    if "optimizer_configs" not in config:
        return {"class": type(optimizer).__name__, **config}
    (bop,), others = config["optimizer_configs"], config["default_config"]
    return {**others["config"], **bop["config"], "class": bop["class_name"], "others": others["class_name"]}


def schedules_of(experiment, stage):
    """Return all scheduled values of a stage as functions of the epoch."""
    return {**build_schedules(stage.optimizer, stage.epochs), **build_annealing(experiment, stage)}


def augmentation_of(experiment):
    """Return the augmentation that differs from none, with area and aspect of random crops."""
    augmentation = experiment.data.augmentation
    if augmentation is None:
        return {}
    values = augmentation.model_dump()
    used = {key: value for key, value in values.items() if value not in (None, False, 0)}
    if values["crop"] not in ("random_area", "distorted_box"):
        used = {key: value for key, value in used.items() if key not in ("area", "aspect")}
    return used if values["pad"] else {key: value for key, value in used.items() if key != "padding"}
