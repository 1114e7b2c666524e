"""Experiments: the complete description of a training as one TOML file. Find, check and override them.

Needs no TensorFlow.
"""

from bnn_keras.experiment.files import (
    ExperimentError,
    all_experiments,
    check_experiment,
    experiment_names,
    load_experiment,
    parse,
    with_absolute_paths,
)
from bnn_keras.experiment.find import (
    Resolution,
    find_experiment,
    resolve,
    resolve_continued,
    resolve_for_weights,
    resolve_with_images_of,
    with_values,
)
from bnn_keras.experiment.schema import DataConfig, Experiment, OptimizerConfig, SchemeConfig, Stage
from bnn_keras.schedule_config import ScheduleConfig

__all__ = [
    "DataConfig",
    "Experiment",
    "ExperimentError",
    "OptimizerConfig",
    "Resolution",
    "ScheduleConfig",
    "SchemeConfig",
    "Stage",
    "all_experiments",
    "check_experiment",
    "experiment_names",
    "find_experiment",
    "load_experiment",
    "parse",
    "resolve",
    "resolve_continued",
    "resolve_for_weights",
    "resolve_with_images_of",
    "with_absolute_paths",
    "with_values",
]
