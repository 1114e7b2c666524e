"""The architecture of a frozen network as JSON, for packed files of networks without an experiment.

Only layers, quantizers and functions of the tables below are written and built, so reading an architecture runs no code
from the file (docs/packed-format.md).
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import larq
import numpy as np
import tensorflow as tf

from bnn_keras import layers as own
from bnn_keras import quantizers
from bnn_keras.errors import BnnError
from bnn_keras.export.freeze import FrozenConv2D, FrozenDense
from bnn_keras.graphs import Layer, nodes_of

MAX_LAYERS = 4096  # layers, and calls of layers
MAX_VALUES = 1 << 28  # numbers in one map of one image
_MAX_NUMBER = 1 << 31
_MAX_LIST = 16
_MAX_TEXT = 256

keras = tf.keras.layers


def _table(*classes: Any) -> dict[str, Any]:
    return {cls.__name__: cls for cls in classes}


LAYERS = _table(
    *(FrozenConv2D, FrozenDense, own.ScaledConv2D, larq.layers.QuantConv2D, larq.layers.QuantDense),
    *(own.TorchBatchNormalization, own.Subsample, own.PadChannels, own.PaddedAveragePooling2D, own.Rotate180),
    *(quantizers.RealActivation, quantizers.ShiftedPReLU),
    *(keras.Conv1D, keras.Conv2D, keras.DepthwiseConv2D, keras.SeparableConv2D, keras.Conv2DTranspose, keras.Dense),
    *(keras.BatchNormalization, keras.LayerNormalization, keras.GroupNormalization, keras.UnitNormalization),
    *(keras.Activation, keras.ReLU, keras.LeakyReLU, keras.PReLU, keras.ELU, keras.Softmax),
    *(keras.MaxPooling2D, keras.AveragePooling2D, keras.GlobalMaxPooling2D, keras.GlobalAveragePooling2D),
    *(keras.Flatten, keras.Reshape, keras.Permute, keras.ZeroPadding2D, keras.Cropping2D, keras.UpSampling2D),
    *(keras.Add, keras.Subtract, keras.Multiply, keras.Average, keras.Maximum, keras.Minimum, keras.Concatenate),
    keras.Rescaling,
)
QUANTIZERS = _table(
    *(larq.quantizers.SteSign, larq.quantizers.ApproxSign, larq.quantizers.SwishSign, larq.quantizers.DoReFa),
    *(quantizers.ShiftedSign, quantizers.RealActivation),
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(tf.keras.activations, name)
    for name in (
        *("linear", "relu", "elu", "selu", "gelu", "swish", "tanh", "sigmoid", "hard_sigmoid", "softplus"),
        *("softsign", "softmax", "exponential"),
    )
} | {"relu6": tf.nn.relu6}

# Arguments that only training uses, or that are those of every layer of a frozen network.
_UNUSED = ("initializer", "regularizer", "constraint", "dtype", "trainable", "batch_input_shape")


def describe(network: tf.keras.Model) -> str:
    """Return the architecture of a frozen network.

    Args:
        network: A flat float32 model with one input and one output.

    Returns:
        A JSON object: `name`; `input`, the shape of one input; `layers`, a list of [class, arguments], where arguments
        with Keras's default are left out; and `calls`, a list of [index of the layer, its inputs] in the order of
        computation. An input is a number: 0 for the input of the network, n for the output of call n. Layers that join
        several inputs have a list of them. The last call gives the output.

    Raises:
        BnnError: The network has a layer that is not in the tables of this module, or too many layers.

    >>> x = tf.keras.Input((4,))
    >>> model = tf.keras.Model(x, tf.keras.layers.Dense(2, name="logits")(x), name="small")
    >>> print(describe(model))
    {"name":"small","input":[4],"layers":[["Dense",{"name":"logits","units":2}]],"calls":[[0,0]]}
    """
    nodes, known = nodes_of(network), list(dict.fromkeys(node.layer for node in nodes_of(network)))
    problems = [f"{layer.name} ({reason})" for layer in known if (reason := _obstacle(layer))]
    if problems or len(nodes) > MAX_LAYERS or len(known) > MAX_LAYERS:
        raise BnnError(
            f"a packed file cannot describe network {network.name!r}: {', '.join(problems) or 'too many layers'}; "
            "replace such layers, or use another format"
        )
    values = {str(id(network.inputs[0])): 0}
    calls = []
    for number, node in enumerate(nodes, start=1):
        calls.append([known.index(node.layer), tf.nest.map_structure(lambda x: values[str(id(x))], node.call_args[0])])
        values.update(dict.fromkeys(node.flat_output_ids, number))
    if calls and values[str(id(network.outputs[0]))] != len(calls):
        raise BnnError(f"the output of network {network.name!r} is not that of its last layer; use another format")
    return json.dumps(
        {
            "name": network.name,
            "input": list(network.input_shape[1:]),
            "layers": [[type(layer).__name__, _arguments(layer)] for layer in known],
            "calls": calls,
        },
        separators=(",", ":"),
    )


def build(text: str) -> tf.keras.Model:
    """Return the network that an architecture describes, with fresh weights.

    Raises:
        ValueError: The text is not an architecture, or exceeds a limit.

    >>> model = build('{"name":"x","input":[4],"layers":[["Dense",{"name":"a","units":2}]],"calls":[[0,0]]}')
    >>> model.output_shape
    (None, 2)
    >>> build('{"name":"x","input":[4],"layers":[["Lambda",{"name":"a"}]],"calls":[[0,0]]}')
    Traceback (most recent call last):
    ValueError: layer 0: unknown class 'Lambda'
    """
    try:
        content = json.loads(text)
        name, shape = _text(content["name"]), tuple(_size(size) for size in _list(content["input"]))
        described, calls = content["layers"], content["calls"]
        if not 0 < len(calls) <= MAX_LAYERS or len(described) > MAX_LAYERS:
            raise ValueError(f"{len(calls)} calls of {len(described)} layers; expected 1 to {MAX_LAYERS}")
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not an architecture ({type(error).__name__}: {error!s:.80})") from error
    layers = [_layer(index, entry) for index, entry in enumerate(described)]
    values = [tf.keras.Input(shape, name="inputs")]
    for number, call in enumerate(calls, start=1):
        values.append(_call(number, call, layers, values))
    try:
        return tf.keras.Model(values[0], values[-1], name=name)
    except ValueError as error:  # two layers have the same name, for example
        raise ValueError(f"not a network ({error!s:.120})") from error


# What a layer of untrusted arguments may raise while it is made or applied.
_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, BnnError, tf.errors.OpError)


def _layer(index: int, entry: Any) -> Layer:
    try:
        name, arguments = entry
        return _object(name, arguments, LAYERS)
    except _ERRORS as error:
        raise ValueError(f"layer {index}: {_reason(error)}") from error


def _call(number: int, call: Any, layers: list[Layer], values: list[tf.Tensor]) -> tf.Tensor:
    """Apply a layer to values that were computed before."""
    try:
        index, inputs = call
        several = isinstance(inputs, list)
        received = [values[_index(value, len(values))] for value in (inputs if several else [inputs])]
        output = layers[_index(index, len(layers))](received if several else received[0])
        size = output.shape[1:].num_elements()
        if size is None or size > MAX_VALUES:
            raise ValueError(f"its output has shape {output.shape}; expected at most {MAX_VALUES} values")
    except _ERRORS as error:
        raise ValueError(f"call {number}: {_reason(error)}") from error
    return output


def _reason(error: Exception) -> str:
    """Return a short text of an error in one line; Keras puts the cause behind a long repetition of the arguments."""
    return f"{' '.join(str(error).split('Exception encountered: ')[-1].split()):.120}"


def _object(name: Any, arguments: Any, table: Mapping[str, Any]) -> Any:
    """Return an object of a class of a table."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown class {name!r:.80}")
    if not isinstance(arguments, dict):
        raise ValueError("its arguments are not an object")
    return table[name].from_config({key: _argument(key, value) for key, value in arguments.items()})


def _argument(key: str, value: Any) -> Any:
    """Return the argument of a layer, after checking it."""
    if key == "input_quantizer" and value is not None:
        name, arguments = value
        return _object(name, arguments, QUANTIZERS)
    if key == "activation":
        if not isinstance(value, str) or value not in FUNCTIONS:
            raise ValueError(f"unknown activation {value!r:.80}")
        return FUNCTIONS[value]
    return _plain(value)


def _plain(value: Any, depth: int = 2) -> Any:
    """Return a plain value: a bounded number or text, None, or a short list of them."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= _MAX_NUMBER:
        return value
    if isinstance(value, list) and depth:
        return [_plain(item, depth - 1) for item in _list(value)]
    raise ValueError(f"argument {value!r:.80} is not a plain value")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MAX_LIST:
        raise ValueError(f"expected a list of at most {_MAX_LIST} items")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"expected a text of at most {_MAX_TEXT} characters")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MAX_VALUES:
        raise ValueError(f"size {value!r:.80} is not an integer from 1 to {MAX_VALUES}")
    return value


def _index(value: Any, length: int) -> int:
    if type(value) is not int or not 0 <= value < length:
        raise ValueError(f"index {value!r:.80} is not an integer from 0 to {length - 1}")
    return value


def _obstacle(layer: Layer) -> str | None:
    """Return why an architecture cannot have a layer, or None."""
    if LAYERS.get(type(layer).__name__) is not type(layer):
        return type(layer).__name__
    quantizer, function = getattr(layer, "input_quantizer", None), getattr(layer, "activation", None)
    if quantizer is not None and QUANTIZERS.get(type(quantizer).__name__) is not type(quantizer):
        return f"input quantizer {type(quantizer).__name__}"
    if function is not None and _function(function) is None:
        return f"activation {getattr(function, '__name__', type(function).__name__)}"
    try:
        _arguments(layer)
    except ValueError as error:
        return str(error)
    return None


def _function(function: Any) -> str | None:
    """Return the name of an activation function in `FUNCTIONS`, or None."""
    name = getattr(function, "__name__", "")
    return name if name in FUNCTIONS and function in (FUNCTIONS[name], getattr(tf.nn, name, None)) else None


def _arguments(layer: Any) -> dict[str, Any]:
    """Return the arguments of a layer or quantizer that differ from Keras's defaults."""
    config = {key: value for key, value in layer.get_config().items() if not key.endswith(_UNUSED)}
    if config.get("input_quantizer"):
        arguments = _arguments(layer.input_quantizer)
        del arguments["name"]  # Keras numbers them
        config["input_quantizer"] = [type(layer.input_quantizer).__name__, arguments]
    if "activation" in config:
        name = _function(layer.activation)
        config["activation"] = None if name == "linear" and type(layer) is not keras.Activation else name
    if config.get("data_format") == "channels_last":
        del config["data_format"]  # Keras's default of None
    defaults = _defaults(type(layer))  # type: ignore[arg-type]
    return {
        key: value if key == "input_quantizer" else _plain(_without_types(value))
        for key, value in config.items()
        if key not in defaults or defaults[key] != value
    }


def _without_types(value: Any) -> Any:
    """Return a value of a config with lists in place of tuples, and Python's numbers in place of NumPy's."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return [_without_types(item) for item in value] if isinstance(value, (list, tuple)) else value


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of the arguments of a class and its bases."""
    defaults = {}
    for base in reversed(cls.__mro__):
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        defaults.update({name: item.default for name, item in parameters.items() if item.default is not item.empty})
    return defaults
