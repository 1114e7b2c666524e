"""Plan a network as steps over maps: each step computes a map pixel by pixel, and stores real numbers or their signs.

A step starts with a convolution, an overlapping pool or a map. What follows for each pixel (scales, batch norm,
activation, a pool whose windows do not overlap, the sign) belongs to the same step. So the sums of a binary layer in
front of a sign are never stored, and a map between two binary layers takes one bit per value.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import larq
import numpy as np
import tensorflow as tf

from bnn_keras import layers as own
from bnn_keras import quantizers
from bnn_keras.errors import BnnError
from bnn_keras.export.freeze import FrozenConv2D, FrozenDense
from bnn_keras.graphs import Layer, Node, nodes_of
from bnn_keras.kernels import Kernel

WORD = 32  # bits

Shape: TypeAlias = tuple[int, int, int]  # height, width, channels

keras = tf.keras.layers


@dataclasses.dataclass(eq=False)
class Map:
    """A map in memory.

    Attributes:
        shape: Height, width and channels. Vectors are maps of one pixel.
        bits: Whether it holds signs, one bit each, else float32.
        pitch: Distance from a pixel of signs to the next, in bits.
        role: "buffer", or an argument of the function: "image", "logits".
        offset: Where it starts in the buffer of its kind, in numbers or words; set by `allocate`.
    """

    shape: Shape
    bits: bool = False
    pitch: int = 0
    role: Literal["buffer", "image", "logits"] = "buffer"
    offset: int = 0

    @property
    def size(self) -> int:
        """Numbers, or words of 32 bits, that it takes."""
        values = math.prod(self.shape)
        if not self.bits:
            return values
        return math.ceil(max(values, self.shape[0] * self.shape[1] * self.pitch) / WORD)

    @property
    def words(self) -> int:
        """Words of a pixel of signs."""
        return self.size // (self.shape[0] * self.shape[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Copy:
    """Pixels of a map: pixel (y, x) is pixel (stride · y + offset, stride · x + offset), zeros outside."""

    map: Map
    strides: tuple[int, int] = (1, 1)
    offsets: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """Pixels of a convolution.

    Attributes:
        map: The inputs.
        kernel: (height, width, channels, filters): real numbers, ±1, or int8.
        binary: Whether the kernel is ±1, stored as bits.
        strides: Vertical and horizontal stride.
        padding: Rows of padding above, and columns on the left.
    """

    map: Map
    kernel: np.ndarray
    binary: bool
    strides: tuple[int, int]
    padding: tuple[int, int]

    @property
    def bytes(self) -> bool:
        """Whether the kernel is int8, and the inputs are rounded to int8 for it."""
        return not self.binary and self.kernel.dtype == np.int8


@dataclasses.dataclass(frozen=True, eq=False)
class Pointwise:
    """A function of `kernels.c` that is applied to each pixel.

    Attributes:
        function: Its name.
        arrays: Arguments with a number for each channel.
        numbers: Arguments with one number.
        sizes: Integer arguments.
        other: A map whose pixel at the same place is an argument.
        added: Channels that it adds.
    """

    function: str
    arrays: tuple[np.ndarray, ...] = ()
    numbers: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    other: Map | None = None
    added: int = 0


@dataclasses.dataclass(frozen=True)
class Pool:
    """A maximum or mean over windows; values in the padding do not count, except for the `divisor`, if there is one."""

    maximum: bool
    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    divisor: int | None = None


@dataclasses.dataclass(eq=False)
class Chain:
    """Pixels that are not computed yet: a source, functions, and perhaps a pool and functions behind it.

    Attributes:
        source: Where pixels come from.
        shape: The shape of the result.
        inner: The shape in front of the pool.
        before: Functions in front of the pool.
        pool: The pool.
        after: Functions behind the pool.
        flat: Whether the result is read as one pixel.
        names: Names of the layers, for comments.
    """

    source: Copy | Convolution
    shape: Shape
    inner: Shape
    before: list[Pointwise] = dataclasses.field(default_factory=list)
    pool: Pool | None = None
    after: list[Pointwise] = dataclasses.field(default_factory=list)
    flat: bool = False
    names: list[str] = dataclasses.field(default_factory=list)

    def append(self, item: Pointwise) -> None:
        """Add a function behind all others; two that are affine become one."""
        functions = self.after if self.pool else self.before
        if item.function == "affine" and functions and functions[-1].function == "affine":
            (scale, shift), (outer, added) = functions.pop().arrays, item.arrays
            item = dataclasses.replace(item, arrays=(outer * scale, outer * shift + added))
        functions.append(item)
        height, width, channels = self.shape
        self.shape = (height, width, channels + item.added)
        if not self.pool:
            self.inner = self.shape


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A chain and the map that it is stored in."""

    chain: Chain
    output: Map

    @property
    def inputs(self) -> list[Map]:
        """The maps that it reads."""
        functions = [*self.chain.before, *self.chain.after]
        return [self.chain.source.map, *(item.other for item in functions if item.other)]

    def overwrites(self, other: Map) -> bool:
        """Return whether its output may take the place of an input: each pixel is read before it is written."""
        chain, output = self.chain, self.output
        if other.bits or output.bits or other.shape[:2] != chain.shape[:2] or other.size < output.size:
            return False
        last = chain.after if chain.pool else chain.before
        places = [item.other for item in last]
        source = chain.source
        if isinstance(source, Copy) and not chain.pool and (source.strides, source.offsets) == ((1, 1), (0, 0)):
            places.append(source.map)
        readers = self.inputs.count(other)
        return other.shape[2] == chain.shape[2] and readers == places.count(other)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a network and the sizes of their buffers.

    Attributes:
        steps: The steps, in order.
        image: The input.
        reals: Numbers in the buffer of real maps.
        words: Words of 32 bits in the buffer of signs.
        pixel: Values of the largest pixel.
        bytes: Values of the largest map that is rounded to int8.
    """

    steps: list[Step]
    image: Map
    reals: int
    words: int
    pixel: int
    bytes: int


def plan(network: tf.keras.Model, kernels: Mapping[str, Kernel], floats: str = "float32") -> Plan:
    """Return the plan of a frozen network.

    Args:
        network: A frozen network with one input and one output (`freeze`).
        kernels: Its binary kernels by layer name.
        floats: Type of the kernels that are not binary, and of their inputs: "float32" or "int8".

    Raises:
        BnnError: It has layers that cannot be written as C.

    >>> from bnn_keras.kernels import Kernel
    >>> x = tf.keras.Input((8, 8, 1))
    >>> y = tf.keras.layers.MaxPool2D()(tf.keras.layers.ReLU()(tf.keras.layers.Conv2D(4, 3)(x)))
    >>> planned = plan(tf.keras.Model(x, tf.keras.layers.Dense(2)(tf.keras.layers.Flatten()(y))), {})
    >>> [step.output.shape for step in planned.steps], planned.reals
    ([(1, 1, 36), (1, 1, 2)], 36)
    """
    try:
        planner = _Planner(network, kernels, floats)
    except _UnsupportedError as error:
        raise _unsupported(network, f"its input ({error})") from error
    planner.run()
    reals, words = allocate(planner.steps)
    pixels = [channels for step in planner.steps for channels in (step.chain.inner[2], step.chain.shape[2])]
    sources = [step.chain.source for step in planner.steps]
    rounded = [source.map.size for source in sources if isinstance(source, Convolution) and source.bytes]
    return Plan(planner.steps, planner.image, reals, words, max(pixels), max(rounded, default=0))


def allocate(steps: list[Step]) -> tuple[int, int]:
    """Give each map a place in one of two buffers, for reals and for signs.

    A map keeps its place until the last step that reads it. A step may write over a map that it is the last to read, if
    it reads each pixel before it writes it.

    Returns:
        The size of the buffers, in numbers and in words.
    """
    last = {map_: index for index, step in enumerate(steps) for map_ in (step.output, *step.inputs)}
    sizes = {False: 0, True: 0}
    live: list[Map] = []
    for index, step in enumerate(steps):
        output = step.output
        live = [map_ for map_ in live if last[map_] >= index]
        if output.role != "buffer":
            continue
        same = [map_ for map_ in live if last[map_] == index and step.overwrites(map_)]
        if same:
            output.offset = same[0].offset
        else:
            output.offset = _place(output.size, [map_ for map_ in live if map_.bits == output.bits])
        live.append(output)
        sizes[output.bits] = max(sizes[output.bits], output.offset + output.size)
    return sizes[False], sizes[True]


def _place(size: int, live: list[Map]) -> int:
    """Return the first offset with room for `size` beside the maps that are in use."""
    offset = 0
    for map_ in sorted(live, key=lambda map_: map_.offset):
        if offset + size <= map_.offset:
            break
        offset = max(offset, map_.offset + map_.size)
    return offset


class _UnsupportedError(Exception):
    """A layer, or an argument of it, cannot be written as C."""


def _unsupported(network: tf.keras.Model, layers: str) -> BnnError:
    return BnnError(
        f"network {network.name!r} cannot be written as C: {layers}; replace such layers, or use another format"
    )


class _Planner:
    """Walk through the calls of layers of a network and collect steps."""

    def __init__(self, network: tf.keras.Model, kernels: Mapping[str, Kernel], floats: str):
        self.network, self.kernels, self.floats = network, kernels, floats
        self.steps: list[Step] = []
        self.image = Map(_shape(network.inputs[0]), role="image")
        self.values: dict[str, Chain | Map] = {str(id(network.inputs[0])): self.image}
        self.signs: dict[str, Map] = {}
        self.nodes = nodes_of(network)
        self.uses = collections.Counter(key for node in self.nodes for key in node.flat_input_ids)
        self.output = str(id(network.outputs[0]))
        self.uses[self.output] += 1

    def run(self) -> None:
        """Plan all layers, and store the logits.

        Raises:
            BnnError: Some cannot be written as C.
        """
        types = {node.layer.name: type(node.layer) for node in self.nodes}
        unknown = [f"{name} ({cls.__name__})" for name, cls in types.items() if cls not in HANDLERS]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise _unsupported(self.network, ", ".join(unknown[:3]) + more)
        for node in self.nodes:
            try:
                self._call(node)
            except _UnsupportedError as error:
                raise _unsupported(self.network, f"{node.layer.name} ({error})") from error
        self._store(self._chain(self.output), Map(_shape(self.network.outputs[0]), role="logits"))

    def _call(self, node: Node) -> None:
        layer = node.layer
        _shape(node.outputs)
        if getattr(layer, "data_format", None) == "channels_first":
            raise _UnsupportedError("data_format channels_first")
        result = HANDLERS[type(layer)](self, layer, *node.flat_input_ids)
        result.names.append(layer.name)
        self.values[node.flat_output_ids[0]] = result

    def _chain(self, key: str) -> Chain:
        """Return a value as a chain that functions may be added to."""
        value = self.values[key]
        if isinstance(value, Chain) and self.uses[key] == 1:
            return value
        map_ = self._map(key)
        return Chain(Copy(map_), map_.shape, map_.shape)

    def _pixels(self, key: str) -> Chain:
        """Return a value as a chain whose pixels have all channels of the value."""
        chain = self._chain(key)
        if not chain.flat or chain.shape[:2] == (1, 1):
            return chain
        map_ = self._store(chain, Map(_flat(chain.shape)))
        return Chain(Copy(map_), map_.shape, map_.shape)

    def _map(self, key: str) -> Map:
        """Return a value as a map of real numbers."""
        value = self.values[key]
        if isinstance(value, Chain):
            value = self._store(value, Map(_flat(value.shape) if value.flat else value.shape))
            self.values[key] = value
        return value

    def _store(self, chain: Chain, output: Map) -> Map:
        self.steps.append(Step(chain, output))
        return output

    def _bits(self, key: str, shift: np.ndarray | None) -> Map:
        """Return the signs of a value, behind a shift for each channel."""
        if shift is None and key in self.signs:
            return self.signs[key]
        chain = self._chain(key) if shift is None else self._pixels(key)
        if shift is not None:
            chain.append(_affine(1, shift, chain.shape[2]))
        channels = chain.shape[2]
        pitch = channels if chain.flat else math.ceil(channels / WORD) * WORD
        signs = self._store(chain, Map(_flat(chain.shape) if chain.flat else chain.shape, bits=True, pitch=pitch))
        if shift is None:
            self.signs[key] = signs
        return signs

    def convolution(self, layer: Layer, key: str) -> Chain:
        """Plan a convolution or a dense layer."""
        kernel, scales = self._kernel(layer)
        rows, columns, channels, filters = kernel.shape
        binary = layer.name in self.kernels
        map_ = self._inputs(layer, key, binary)
        height, width, given = map_.shape
        if given != channels:
            raise _UnsupportedError(f"{given} input channels in groups of {channels}")
        if getattr(layer, "pad_values", 0) and layer.padding == "same":
            raise _UnsupportedError(f"padding with {layer.pad_values:g}")
        if max(getattr(layer, "dilation_rate", (1, 1))) > 1:
            raise _UnsupportedError(f"a dilation rate of {layer.dilation_rate}")
        strides = tuple(getattr(layer, "strides", (1, 1)))
        same = getattr(layer, "padding", "valid") == "same"
        size, padding = _windows((height, width), (rows, columns), strides, same)
        shape = (*size, filters)
        if self.floats == "int8" and not binary:
            kernel, scales = _quantized(kernel)
        chain = Chain(Convolution(map_, kernel, binary, strides, padding), shape, shape)
        bias = layer.bias.numpy() if layer.use_bias else 0
        if np.any(scales != 1) or np.any(bias):
            chain.append(_affine(scales, bias, filters))
        return self._activate(chain, layer.activation)

    def _kernel(self, layer: Layer) -> tuple[np.ndarray, Any]:
        """Return the kernel of a layer, (height, width, channels, filters), and its scales."""
        kernel = self.kernels.get(layer.name)
        if kernel is None and getattr(layer, "kernel_quantizer", None) is not None:
            raise _UnsupportedError(f"kernel quantizer {type(layer.kernel_quantizer).__name__}")
        values = layer.kernel.numpy() if kernel is None else kernel.signs
        scales = kernel.scales if kernel is not None and len(kernel.scales) else 1
        return _finite(values, layer.name).reshape((1, 1, *values.shape) if values.ndim == 2 else values.shape), scales

    def _inputs(self, layer: Layer, key: str, binary: bool) -> Map:
        """Return the map that a layer reads, behind its input quantizer."""
        quantizer = getattr(layer, "input_quantizer", None)
        if quantizer is None:
            return self._map(key)
        sign = isinstance(quantizer, (larq.quantizers.SteSign, quantizers.ShiftedSign))
        shift = quantizer.shift.numpy() if isinstance(quantizer, quantizers.ShiftedSign) else None
        if sign and binary:
            return self._bits(key, shift)
        chain = self._pixels(key)
        if shift is not None:
            chain.append(_affine(1, shift, chain.shape[2]))
        chain = self._activate(chain, "sign" if sign else quantizer)
        return self._store(chain, Map(chain.shape))

    def norm(self, layer: Layer, key: str) -> Chain:
        """Plan a batch norm."""
        chain = self._pixels(key)
        if list(layer.axis) != [layer.input_spec.ndim - 1]:
            raise _UnsupportedError(f"axis {layer.axis}")
        scale = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
        scale = scale * layer.gamma.numpy() if layer.scale else scale
        shift = -layer.moving_mean.numpy() * scale
        shift = shift + layer.beta.numpy() if layer.center else shift
        _finite(np.stack([scale, shift]), layer.name)
        chain.append(_affine(scale, shift, chain.shape[2]))
        return chain

    def activation(self, layer: Layer, key: str) -> Chain:
        """Plan an activation without weights."""
        return self._activate(self._chain(key), layer if isinstance(layer, keras.ReLU) else _function_of(layer))

    def prelu(self, layer: Layer, key: str) -> Chain:
        """Plan ReActNet's activation."""
        chain = self._pixels(key)
        arrays = tuple(_finite(weight.numpy(), layer.name) for weight in (layer.before, layer.slope, layer.after))
        chain.append(Pointwise("shifted_prelu", arrays))
        return chain

    def pool(self, layer: Layer, key: str) -> Chain:
        """Plan a pool."""
        value = self.values[key]
        height, width = value.shape[:2]
        maximum = isinstance(layer, (keras.MaxPooling2D, keras.GlobalMaxPooling2D))
        if isinstance(layer, (keras.GlobalMaxPooling2D, keras.GlobalAveragePooling2D)):
            window, strides, same = (height, width), (height, width), False
        else:
            window, strides, same = tuple(layer.pool_size), tuple(layer.strides), layer.padding == "same"
        size, padding = _windows((height, width), window, strides, same)
        divisor = None
        if isinstance(layer, own.PaddedAveragePooling2D):
            size, padding = (-(-height // 2), -(-width // 2)), (height % 2, width % 2)
            divisor = math.prod(window)
        chain = self._chain(key)
        overlapping = strides[0] < window[0] or strides[1] < window[1]
        computed = isinstance(chain.source, Convolution) or chain.before
        if chain.pool or (overlapping and computed):
            map_ = self._store(chain, Map(chain.shape))
            chain = Chain(Copy(map_), map_.shape, map_.shape)
        chain.pool = Pool(maximum, window, strides, padding, divisor)
        chain.shape = (*size, chain.shape[2])
        return chain

    def flatten(self, layer: Layer, key: str) -> Chain:
        """Plan a change of shape to a vector."""
        chain = self._pixels(key)
        chain.flat = True
        return chain

    def add(self, layer: Layer, *keys: str) -> Chain:
        """Plan a sum."""
        pending = [key for key in keys if isinstance(self.values[key], Chain) and self.uses[key] == 1]
        first = (pending or keys)[-1]
        others = [self._map(key) for key in _without(keys, first)]
        chain = self._pixels(first)
        for other in others:
            if other.shape != chain.shape:
                raise _UnsupportedError(f"a sum of shapes {other.shape} and {chain.shape}")
            chain.append(Pointwise("add", other=other))
        return chain

    def move(self, layer: Layer, key: str) -> Chain:
        """Plan a layer that moves pixels: a subsampling, padding, cropping or rotation."""
        map_ = self._map(key)
        height, width, channels = map_.shape
        strides, offsets, size = _MOVES[type(layer)](layer, height, width)
        shape = (*size, channels)
        return Chain(Copy(map_, strides, offsets), shape, shape)

    def widen(self, layer: Layer, key: str) -> Chain:
        """Plan channels of zeros."""
        chain = self._pixels(key)
        chain.append(Pointwise("widen", sizes=(layer.before, layer.after), added=layer.before + layer.after))
        return chain

    def _activate(self, chain: Chain, function: Any) -> Chain:
        for item in _activations(function):
            chain.append(item)
        return chain


def _activations(function: Any) -> Iterator[Pointwise]:
    """Yield the function of `kernels.c` for an activation, or nothing for the identity."""
    if isinstance(function, keras.ReLU):
        slope, threshold = float(function.negative_slope), float(function.threshold)
        if slope or threshold:
            raise _UnsupportedError(f"negative_slope {slope:g} and threshold {threshold:g}")
        limit = function.max_value
        yield Pointwise("relu") if limit is None else Pointwise("clip", numbers=(0.0, float(limit)))
        return
    if isinstance(function, quantizers.RealActivation):
        function = function.function
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    if name not in ACTIVATIONS or not (isinstance(function, str) or function in _KNOWN):
        raise _UnsupportedError(f"activation {name}")
    yield from ACTIVATIONS[name]


ACTIVATIONS: dict[str, tuple[Pointwise, ...]] = {
    "linear": (),
    "relu": (Pointwise("relu"),),
    "relu6": (Pointwise("clip", numbers=(0.0, 6.0)),),
    "clip": (Pointwise("clip", numbers=(-1.0, 1.0)),),
    "leaky_clip": (Pointwise("leaky_clip"),),
    "sign": (Pointwise("sign"),),
}
_KNOWN = (None, tf.keras.activations.linear, tf.keras.activations.relu, tf.nn.relu, tf.nn.relu6)


def _function_of(layer: Layer) -> Any:
    """Return the function of a layer that applies an activation."""
    if isinstance(layer, larq.quantizers.SteSign):
        return "sign"
    return layer if isinstance(layer, quantizers.RealActivation) else layer.activation


def _affine(scale: Any, shift: Any, channels: int) -> Pointwise:
    """Return y = scale · x + shift in float64; numbers are rounded when the steps are written."""
    arrays = tuple(np.broadcast_to(np.asarray(values, np.float64), (channels,)) for values in (scale, shift))
    return Pointwise("affine", arrays)


def _quantized(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel rounded to int8, and its scale for each filter (the last axis): kernel ≈ scale · int8.

    >>> _quantized(np.array([[0.5, 0.0], [-1.0, 0.0]]))
    (array([[  64,    0],
           [-127,    0]], dtype=int8), array([0.00787402, 1.        ]))
    """
    largest = np.abs(kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)).max(0)
    scales = np.where(largest > 0, largest / 127, 1)
    return np.rint(kernel / scales).astype(np.int8), scales


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise BnnError(f"{name!r} has infinite or NaN values; train again with a lower learning rate")
    return values


def _shape(tensor: Any) -> Shape:
    """Return the shape of one image's part of a tensor; vectors are maps of one pixel."""
    shape = tuple(tensor.shape[1:])
    if len(shape) == 1 and shape[0]:
        return (1, 1, shape[0])
    if len(shape) == 3 and all(shape):
        return shape
    raise _UnsupportedError(f"a shape of {shape}")


def _flat(shape: Shape) -> Shape:
    return (1, 1, math.prod(shape))


def _without(keys: tuple[str, ...], key: str) -> list[str]:
    """Return keys without the last occurrence of one of them."""
    index = len(keys) - 1 - keys[::-1].index(key)
    return [*keys[:index], *keys[index + 1 :]]


def _windows(
    size: tuple[int, int], window: tuple[int, ...], strides: tuple[int, ...], same: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the number of windows down and across, and the rows above and columns on the left of the map."""
    counts, padding = [], []
    for length, extent, stride in zip(size, window, strides, strict=True):
        count = -(-length // stride) if same else (length - extent) // stride + 1
        counts.append(count)
        padding.append(max((count - 1) * stride + extent - length, 0) // 2 if same else 0)
    return (counts[0], counts[1]), (padding[0], padding[1])


def _margins(layer: Layer, height: int, width: int, argument: str, sign: int) -> Any:
    (top, bottom), (left, right) = getattr(layer, argument)
    size = (height + sign * (top + bottom), width + sign * (left + right))
    return (1, 1), (-sign * top, -sign * left), size


# Strides, offsets and size of layers that move pixels.
_MOVES: dict[type, Callable[[Layer, int, int], Any]] = {
    own.Subsample: lambda layer, height, width: (
        *((2, 2), (1 - height % 2, 1 - width % 2)),
        (-(-height // 2), -(-width // 2)),
    ),
    own.Rotate180: lambda layer, height, width: ((-1, -1), (height - 1, width - 1), (height, width)),
    keras.ZeroPadding2D: functools.partial(_margins, argument="padding", sign=1),
    keras.Cropping2D: functools.partial(_margins, argument="cropping", sign=-1),
}

HANDLERS: dict[type, Callable[..., Chain]] = {
    **dict.fromkeys((FrozenConv2D, FrozenDense, own.ScaledConv2D), _Planner.convolution),
    **dict.fromkeys((larq.layers.QuantConv2D, larq.layers.QuantDense), _Planner.convolution),
    **dict.fromkeys((keras.Conv2D, keras.Dense), _Planner.convolution),
    **dict.fromkeys((keras.BatchNormalization, own.TorchBatchNormalization), _Planner.norm),
    **dict.fromkeys((keras.Activation, keras.ReLU, quantizers.RealActivation), _Planner.activation),
    larq.quantizers.SteSign: _Planner.activation,
    quantizers.ShiftedPReLU: _Planner.prelu,
    **dict.fromkeys((keras.MaxPooling2D, keras.AveragePooling2D, own.PaddedAveragePooling2D), _Planner.pool),
    **dict.fromkeys((keras.GlobalMaxPooling2D, keras.GlobalAveragePooling2D), _Planner.pool),
    keras.Flatten: _Planner.flatten,
    keras.Add: _Planner.add,
    **dict.fromkeys(_MOVES, _Planner.move),
    own.PadChannels: _Planner.widen,
}
