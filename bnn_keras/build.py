"""Build models, optimizers, schedules, losses and metrics from an experiment.

This module alone resolves the builder strings of the catalog.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from bnn_keras import catalog, constraints, losses, schedule_config, schedules
from bnn_keras.errors import BnnError
from bnn_keras.experiment import (
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    SchemeConfig,
    Stage,
    check_experiment,
)
from bnn_keras.kernels import is_binary, split_kernel
from bnn_keras.layers import Rotate180
from bnn_keras.plugins import plugin_of
from bnn_keras.schemes import Scheme


def _function(builder: catalog.Builder) -> Callable[..., Any]:
    if callable(builder):
        return builder
    module, function = builder.split(":")
    return getattr(importlib.import_module(module), function)


def _build(kind: str, name: str, expected: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the builder of a catalog row.

    Raises:
        BnnError: The builder of a plugin failed, or returned something else than an instance of `expected`.
    """
    builder, plugin = catalog.TABLES[kind][name].builder, plugin_of(kind, name)
    if not plugin:
        return _function(builder)(*args, **kwargs)
    problem, cause = None, None
    try:
        built = _function(builder)(*args, **kwargs)
    except BnnError:
        raise
    except Exception as error:
        called = f"; it is called with {', '.join(kwargs) or 'no options'}" if isinstance(error, TypeError) else ""
        problem, cause = f"failed ({type(error).__name__}: {error}){called}", error
    else:
        if isinstance(built, expected):
            return built
        problem = f"returned {str(built)[:60]!r} ({type(built).__name__}); expected {expected.__name__}"
    raise BnnError(
        f"the builder of {kind} {name!r} {problem}; correct the plugin {plugin.name!r}, or see the traceback with "
        "`bnnk --debug …`"
    ) from cause


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def build_scheme(experiment: Experiment, stage: Stage | None = None) -> Scheme:
    """Return the scheme of a stage at its bit widths.

    If the optimizers of the experiment flip binary weights (Bop), the scheme has no latent weights.

    Args:
        experiment: The experiment.
        stage: The stage. Default: the last one, whose scheme the trained network has.

    Example:
        >>> from bnn_keras import resolve
        >>> build_scheme(resolve("lenet5", bits="1/32").experiment).bits
        '1/32'
    """
    scheme = scheme_of(experiment.scheme_of(stage or experiment.stages[-1]))
    return scheme.without_latents() if experiment.latent_free else scheme


def scheme_of(chosen: SchemeConfig) -> Scheme:
    """Return a scheme with latent weights from its table of an experiment.

    Raises:
        BnnError: The builder of a plugin failed, or the scheme anneals other values than its row.

    Example:
        >>> from bnn_keras.experiment import SchemeConfig
        >>> scheme_of(SchemeConfig.model_validate({"name": "irnet", "bits": "1/32"})).bits
        '1/32'
    """
    row = catalog.SCHEMES[chosen.name]
    options = {key: value for key, value in chosen.choices.items() if key not in row.anneals}
    scheme: Scheme = _build("scheme", chosen.name, Scheme, **options).with_bits(chosen.bits)
    annealed = set(scheme.annealed.values()) if scheme.annealed else set()
    if annealed != set(row.anneals):
        raise BnnError(
            f"scheme {row.name!r} anneals {_listed(row.anneals)} in its row, but {_listed(annealed)} in its "
            "Scheme(…, annealed=Annealed(…)); give both the same names"
        )
    return scheme


def build_network(
    name: str,
    scheme: Scheme,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    rotated: bool = False,
    **options: Any,
) -> tf.keras.Model:
    """Build a network of the catalog with fresh weights.

    Args:
        name: The name of the network.
        scheme: The scheme, which makes the binary layers.
        input_shape: Height, width and channels of the images.
        classes: The number of logits.
        rotated: Rotate the images by 180° first (`layers.Rotate180`).
        **options: Options of the network (`catalog.NetworkRow.options`).

    Returns:
        A model from normalised images (batch, height, width, channels) to logits (batch, classes). Its attribute
        `scheme` is the scheme, `variant` the option of that name, "" without one.

    Raises:
        BnnError: The images are too small for the network, an option has a wrong value, or Larq Zoo is needed and not
            installed.

    Example:
        >>> from bnn_keras import schemes
        >>> model = build_network("lenet5", schemes.xnor(), (28, 28, 1), classes=10)
        >>> model.output_shape
        (None, 10)
    """
    images = tf.keras.layers.Input(input_shape)
    try:
        turned = Rotate180(name="rotate180")(images) if rotated else images
        logits = _build("network", name, type(images), scheme, turned, classes, **options)
    except ValueError as error:
        expected = catalog.NETWORKS[name].input_shape
        fix = f"the network is made for {_size(expected)}: choose a dataset with images of that size"
        if tuple(input_shape) == tuple(expected):
            fix = "verify that quantizers return the shape of what they quantize, and layers what the next ones expect"
        raise BnnError(f"cannot build network {name!r} for images {_size(input_shape)} ({error}); {fix}") from error
    if tf.keras.mixed_precision.global_policy().compute_dtype != tf.keras.backend.floatx():
        logits = tf.keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    model = tf.keras.Model(images, logits, name=name.replace("/", "-"))
    model.scheme, model.variant = scheme, options.get("variant", "")
    return model


def _size(shape: Sequence[int | None]) -> str:
    return " × ".join(map(str, shape))


def build_model(experiment: Experiment, stage: Stage | None = None) -> tf.keras.Model:
    """Build the network of an experiment with fresh weights.

    The weights are drawn with the seed of the experiment, and constraints are applied once. If the images of the
    dataset differ in size, the model has the input shape of the network.

    Args:
        experiment: The experiment.
        stage: The stage whose scheme the network has. Default: the last one.

    Returns:
        A model from normalised images (batch, height, width, channels) to logits (batch, classes).

    Raises:
        BnnError: `experiment` is not an Experiment, the network cannot be built for the images of the dataset, its
            package is not installed, or a binary kernel of a plugin's scheme has several magnitudes in a filter.

    Example:
        >>> from bnn_keras import resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> model.input_shape, model.output_shape
        ((None, 28, 28, 1), (None, 10))
    """
    check_experiment(experiment)
    tf.keras.utils.set_random_seed(experiment.seed)
    network = experiment.network
    model = build_network(
        network.name,
        build_scheme(experiment, stage),
        experiment.input_shape,
        experiment.data.row.classes,
        rotated=network.rotated,
        **network.choices,
    )
    constraints.apply_constraints(model)
    if plugin_of("scheme", model.scheme.name):
        check_binary_kernels(model)
    return model


def check_binary_kernels(model: tf.keras.Model) -> None:
    """Check that the quantizers of binary kernels return one magnitude per filter.

    Raises:
        BnnError: One does not.
    """
    for layer in model.layers:
        if is_binary(layer) and not model.scheme.latent_free:
            split_kernel(layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel)).numpy(), layer.name)


# For each table of a schedule: its function, and whether the function needs the number of epochs of the stage.
_SCHEDULES: dict[type[ScheduleConfig], tuple[Callable[..., schedules.Schedule], bool]] = {
    schedule_config.Step: (functools.partial(schedules.exponential, staircase=True), False),
    schedule_config.MultiStep: (schedules.multi_step, False),
    schedule_config.Exponential: (schedules.exponential, False),
    schedule_config.Geometric: (schedules.geometric, True),
    schedule_config.ShiftedExponential: (schedules.shifted_exponential, True),
    schedule_config.Linear: (schedules.polynomial, True),
    schedule_config.Polynomial: (schedules.polynomial, True),
    schedule_config.Cosine: (schedules.cosine, True),
    schedule_config.CosineRestarts: (schedules.cosine_restarts, True),
}


def build_schedule(value: float | ScheduleConfig, epochs: int) -> schedules.Schedule:
    """Return a hyper-parameter as a function of the epochs since the start of its stage.

    The function accepts fractions of an epoch. It is constant within each epoch unless `every = "step"`.

    Args:
        value: A number or the table of a schedule.
        epochs: The number of epochs of the stage.

    Example:
        >>> from bnn_keras import resolve
        >>> rate = "stages.0.optimizer.learning_rate={schedule = 'linear', initial = 1.0, final = 0.0}"
        >>> (stage,) = resolve("lenet5", epochs=4, overrides=[rate]).experiment.stages
        >>> schedule = build_schedule(stage.optimizer.learning_rate, stage.epochs)
        >>> [schedule(epoch) for epoch in (0, 1, 1.5, 2)]
        [1.0, 0.75, 0.75, 0.5]
    """
    if not isinstance(value, ScheduleConfig):
        return schedules.constant(value)
    function, needs_epochs = _SCHEDULES[type(value)]
    schedule = function(**value.arguments, **({"epochs": epochs} if needs_epochs else {}))
    if value.lead:
        schedule = schedules.ahead(schedule, value.lead)
    if value.warm_up:
        schedule = schedules.warmed_up(schedule, value.warm_up.initial, value.warm_up.epochs)
    return schedule if value.every == "step" else schedules.by_epoch(schedule)


def depending_on_length(experiment: Experiment, index: int) -> list[str]:
    """Return the keys of the schedules of a stage that depend on the number of epochs.

    Args:
        experiment: The experiment.
        index: Index of the stage.

    Example:
        >>> from bnn_keras import resolve
        >>> depending_on_length(resolve("lenet5").experiment, 0), depending_on_length(resolve("resnet20").experiment, 0)
        ([], ['scheme.t', 'stages.0.optimizer.learning_rate'])
    """
    stage = experiment.stages[index]
    scheme = f"stages.{index}.scheme" if stage.scheme else "scheme"
    annealed, optimizer = experiment.scheme_of(stage), stage.optimizer
    values = {f"{scheme}.{name}": getattr(annealed, name) for name in catalog.SCHEMES[annealed.name].anneals}
    given = {"learning_rate": optimizer.learning_rate, **optimizer.choices}
    values |= {f"stages.{index}.optimizer.{name}": value for name, value in given.items()}
    return [key for key, value in values.items() if isinstance(value, ScheduleConfig) and _SCHEDULES[type(value)][1]]


def build_annealing(experiment: Experiment, stage: Stage) -> dict[str, schedules.Schedule]:
    """Return the annealed parameters of a stage's scheme as functions of the epoch, counted over all stages.

    Example:
        >>> from bnn_keras import resolve
        >>> experiment = resolve("resnet20").experiment
        >>> annealing = build_annealing(experiment, experiment.stages[0])
        >>> annealing["t"](0), annealing["k"](0)
        (0.001, 1000.0)
    """
    return annealing_of(experiment.scheme_of(stage), experiment.epochs)


def annealing_of(scheme: SchemeConfig, epochs: int) -> dict[str, schedules.Schedule]:
    """Return the annealed parameters of a scheme as functions of the epoch.

    Args:
        scheme: The table of the scheme in an experiment.
        epochs: The number of epochs.

    Example:
        >>> from bnn_keras.experiment import SchemeConfig
        >>> annealing_of(SchemeConfig.model_validate({"name": "irnet", "bits": "1/1"}), epochs=2)["t"](1)
        1.0
    """
    row = catalog.SCHEMES[scheme.name]
    values = {name: getattr(scheme, name) for name in row.anneals}
    annealing = {name: build_schedule(value, epochs) for name, value in values.items() if value is not None}
    derived = {
        name: _function(rule)(annealing[source])
        for name, (source, rule) in row.derived.items()
        if name not in annealing
    }
    return {**annealing, **derived}


def build_schedules(optimizer: OptimizerConfig, epochs: int) -> dict[str, schedules.Schedule]:
    """Return the learning rate and the scheduled hyper-parameters of an optimizer as functions of the epoch.

    Args:
        optimizer: The optimizer of a stage.
        epochs: The number of epochs of the stage. The functions count epochs from the start of the stage.

    Example:
        >>> from bnn_keras import resolve
        >>> (stage,) = resolve("lenet5").experiment.stages
        >>> list(build_schedules(stage.optimizer, stage.epochs))
        ['learning_rate']
    """
    values = {"learning_rate": optimizer.learning_rate, **optimizer.choices}
    return {
        name: build_schedule(value, epochs)
        for name, value in values.items()
        if name == "learning_rate" or isinstance(value, ScheduleConfig)
    }


def build_optimizer(optimizer: OptimizerConfig, epochs: int) -> tf.keras.optimizers.legacy.Optimizer:
    """Build an optimizer with the hyper-parameters of the first step of its stage.

    Args:
        optimizer: The optimizer of a stage.
        epochs: The number of epochs of the stage.

    Example:
        >>> from bnn_keras import resolve
        >>> (stage,) = resolve("lenet5").experiment.stages
        >>> type(build_optimizer(stage.optimizer, stage.epochs)).__name__
        'TorchAdam'
    """
    first = {name: schedule(0) for name, schedule in build_schedules(optimizer, epochs).items()}
    decay = {"weight_decay": optimizer.weight_decay, "weight_decay_of": optimizer.weight_decay_of}
    factors = {"learning_rate_factors": optimizer.learning_rate_factors} if optimizer.learning_rate_factors else {}
    hyperparameters = {**decay, **factors, **optimizer.choices, **first}
    return _build("optimizer", optimizer.name, tf.keras.optimizers.legacy.Optimizer, **hyperparameters)


def build_loss(stage: Stage | None = None) -> tf.keras.losses.Loss:
    """Return the loss of a stage on labels and logits.

    Args:
        stage: The stage. Default: none, which gives cross-entropy without label smoothing, as evaluation reports it.

    Example:
        >>> print(f"{build_loss()(tf.constant([0]), tf.constant([[0.0, 0.0]])).numpy():.4f}")
        0.6931
    """
    smoothing = stage.label_smoothing if stage else 0.0
    if not smoothing:
        return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return losses.SmoothedCrossEntropy(smoothing)


def build_metrics(classes: int) -> list[tf.keras.metrics.Metric]:
    """Return the metrics of training and evaluation: cross-entropy without label smoothing, top-1 and top-5 accuracy.

    With fewer than five classes, top-5 accuracy counts the labels among all of them.

    Example:
        >>> [metric.name for metric in build_metrics(10)]
        ['cross_entropy', 'top1', 'top5']
    """
    return [
        tf.keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True),
        tf.keras.metrics.SparseCategoricalAccuracy(name="top1"),
        tf.keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5"),
    ]


def percent(fraction: float) -> float:
    """Return a metric of `build_metrics` in percent, without the rounding error of its float32.

    Example:
        >>> percent(0.98699998)
        98.7
    """
    return round(100 * float(fraction), 4)
