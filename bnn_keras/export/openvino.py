"""OpenVINO, for x86: a graph pass makes convolutions of signs `BinaryConvolution`, which no converter does.

Its CPU plugin computes them with XNOR and popcount. What it takes, found by trying (docs/deploying.md):
`FakeQuantize` with two levels, 0 and 1, and a threshold just below 0; kernel bits as `u1` in OIHW order, the least
significant bit first; input channels in eights, or results are wrong; static shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import Constant

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.graphs import Predictor, Source, in_batches, layers_with

# FakeQuantize gives 0 up to its threshold. With the largest normal number below 0, both zeros give 1: their sign is +1.
_BELOW_ZERO = np.float32(-np.finfo(np.float32).tiny)
_CHANNELS = 8


def convert(source: Source, file: Path) -> dict[str, str]:
    """Writes an `.xml` and the `.bin` beside it.

    Args:
        source: The network. `floats` is what layers that are not binary compute in: "float32", "bfloat16" (which
            `load` asks for; the file is the same), or "int8", which NNCF calibrates.
        file: The `.xml` to write.

    Returns:
        Names of the binary layers that stayed float, and why.

    Raises:
        BnnError: The converter crashed, or NNCF is needed and not installed.
    """
    calibration = source.calibration() if source.floats == "int8" else None
    constants = worker.call(f"{__name__}:write", str(source.graph), str(file), source.batch_size, calibration)
    return layers_with(source.kernels, constants)


def write(
    graph: str, file: str, batch_size: int, calibration: np.ndarray | None = None, binary: bool = True
) -> list[tuple[np.ndarray, str]]:
    """Writes the `.xml` and `.bin` of a SavedModel.

    Args:
        graph: The SavedModel.
        file: The `.xml`.
        batch_size: Images of a batch, for good.
        calibration: Images that give the ranges of int8; without them other layers stay float.
        binary: Make binary convolutions; else everything stays float, to compare with.

    Returns:
        Its float kernels, (filters, height, width, inputs) or (units, inputs), and why they are float.
    """
    model = ov.convert_model(graph)
    model.reshape({model.inputs[0]: [batch_size, *list(model.inputs[0].partial_shape)[1:]]})
    signs = [node.get_friendly_name() for node in model.get_ordered_ops() if binary and is_sign_convolution(node)]
    constants = _constants(model, signs)
    if calibration is not None:
        model = _with_int8(model, signs, calibration, batch_size)
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in signs:
            binarize(node)
    model.validate_nodes_and_infer_types()
    ov.save_model(model, file, compress_to_fp16=False)
    return constants


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Predicts with a file.

    Raises:
        BnnError: The file cannot be read, takes batches of another size, or makes OpenVINO crash.
    """
    try:
        own = worker.call(f"{__name__}:batch_size_of", str(file), floats, threads)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BnnError(f"OpenVINO cannot read {str(file)!r} ({reason}); export it again") from error
    if batch_size not in (None, own):
        raise BnnError(
            f"{str(file)!r} takes batches of {own}, asked for are batches of {batch_size}; export it again with "
            f"--batch-size {batch_size}"
        )
    return lambda images: worker.call(f"{__name__}:predictions", str(file), floats, threads, images)


def batch_size_of(file: str, floats: str, threads: int | None) -> int:
    """The number of images that a file takes at once."""
    return _compiled(file, floats, threads, Path(file).stat().st_mtime_ns).inputs[0].shape[0]


def predictions(file: str, floats: str, threads: int | None, images: np.ndarray) -> np.ndarray:
    """What a file makes of any number of images."""
    compiled = _compiled(file, floats, threads, Path(file).stat().st_mtime_ns)
    return in_batches(lambda batch: compiled(batch)[0].copy(), compiled.inputs[0].shape[0])(images)


@functools.lru_cache(maxsize=1)
def _compiled(file: str, floats: str, threads: int | None, written: int) -> ov.CompiledModel:
    """A file ready to run; `written` tells files of one name apart."""
    return compiled_model(ov.Core().read_model(file), threads, floats)


def compiled_model(
    model: ov.Model, threads: int | None, floats: str = "float32", **properties: Any
) -> ov.CompiledModel:
    """A model ready to run, in float32 unless asked otherwise, with further properties of the CPU plugin."""
    properties["INFERENCE_PRECISION_HINT"] = "bf16" if floats == "bfloat16" else "f32"
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    return ov.Core().compile_model(model, "CPU", properties)


def binarize(node: ov.Node) -> None:
    """Replaces a convolution of signs: conv(sign(x), ±α) becomes α · BinaryConvolution(x ≥ 0, bits).

    With bits b of inputs and k of kernels a binary convolution is Σ (2 · (b xnor k) − 1), and zeros of its padding
    count as zeros. Missing input channels are made up in pairs that cancel: +1 with a kernel of +1 and one of −1.
    """
    x = _signed(node)
    weights = node.input_value(1).get_node().get_data().astype(np.float32)
    scales = _scales(weights)
    assert x is not None
    x = _apart(x)
    missing = -weights.shape[1] % _CHANNELS
    if missing:
        x = ops.pad(x, [0] * 4, [0, missing, 0, 0], "constant", np.float32(1)).output(0)
        more = np.ones((len(weights), missing, *weights.shape[2:]), np.float32)
        more[:, ::2] = -1
        weights = np.concatenate([weights, more], axis=1)
    threshold, zero, one = (np.full((1, 1, 1, 1), value, np.float32) for value in (_BELOW_ZERO, 0, 1))
    bits = np.packbits(~np.signbit(weights).ravel(), bitorder="little")
    convolution = ops.binary_convolution(
        ops.fake_quantize(x, threshold, threshold, zero, one, 2),
        Constant(ov.Tensor(bits, ov.Shape(weights.shape), ov.Type.u1), shared_memory=False),
        mode="xnor-popcount",
        pad_value=0.0,
        **{key: node.get_attributes()[key] for key in ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")},
    )
    scaled = ops.multiply(convolution, scales.reshape(1, -1, 1, 1))
    scaled.set_friendly_name(node.get_friendly_name())
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(scaled.output(0))


def is_sign_convolution(node: ov.Node) -> bool:
    """Whether a node is a convolution that `binarize` takes."""
    return obstacle(node) is None


def obstacle(node: ov.Node) -> str | None:
    """What keeps a node from being made a binary convolution; None where nothing does."""
    if node.get_type_name() != "Convolution" or not isinstance(node.input_value(1).get_node(), Constant):
        return "it is no convolution with a constant kernel"
    weights = node.input_value(1).get_node().get_data()
    padding = max(*node.get_attributes()["pads_begin"], *node.get_attributes()["pads_end"])
    if not np.allclose(np.abs(weights), _scales(weights).reshape(-1, 1, 1, 1), rtol=1e-5, atol=0):
        return "a filter has values of several magnitudes"
    if weights.shape[1] % 2:
        return f"it has {weights.shape[1]} input channels, an odd number"
    if padding >= min(weights.shape[2:]):  # windows that hold nothing else come out wrong
        return f"its padding of {padding} is as wide as its kernel"
    return None if _signed(node) is not None else "its inputs are no signs"


def _scales(weights: np.ndarray) -> np.ndarray:
    """The magnitude of each filter, OIHW."""
    return np.abs(weights).reshape(len(weights), -1).max(axis=1)


def _signed(node: ov.Node) -> ov.Output | None:
    """X where a convolution's input is the sign of x, as Larq has it: Sign(Sign(x) + 0.1).

    A padding with ones may stand between them: that of x with ones has the same signs.
    """
    value = node.input_value(0)
    pad = value.get_node()
    if pad.get_type_name() == "Pad":
        if len(pad.inputs()) < 4 or _number(pad.input_value(3)) != 1:
            return None
        value = pad.input_value(0)
    inner = _operand(value, "Sign", "Add")
    x = inner and next(
        (
            sign.get_node().input_value(0)
            for sign, shift in (inner, inner[::-1])
            if sign.get_node().get_type_name() == "Sign" and 0 < (_number(shift) or 0) < 1
        ),
        None,
    )
    if x is None or pad.get_type_name() != "Pad":
        return x
    return ops.pad(x, pad.input_value(1), pad.input_value(2), "constant", np.float32(1)).output(0)


def _operand(value: ov.Output, outer: str, inner: str) -> list[ov.Output] | None:
    """The inputs of an `inner` that an `outer` takes, where `value` is that."""
    node = value.get_node()
    if node.get_type_name() != outer:
        return None
    node = node.input_value(0).get_node()
    return node.input_values() if node.get_type_name() == inner else None


def _apart(x: ov.Output) -> ov.Output:
    """X as OpenVINO shall compute it before it takes signs.

    It would make sums and signs one with a binary convolution in front, which comes out wrong, where nothing else takes
    the sum; and it crashes where it takes signs of a transposed input. A pooling of single pixels stands between them.
    """
    node = x.get_node()
    summed = node.get_type_name() == "Add" and not any(
        isinstance(value.get_node(), Constant) for value in node.input_values()
    )
    if node.get_type_name() == "Transpose" or (summed and len(x.get_target_inputs()) == 1):
        return ops.max_pool(x, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1]).output(0)
    return x


def _number(value: ov.Output) -> float | None:
    """A constant of one number."""
    node = value.get_node()
    if not isinstance(node, Constant) or np.prod(node.get_output_shape(0)) != 1:
        return None
    return float(node.get_data().ravel()[0])


def _constants(model: ov.Model, signs: Sequence[str]) -> list[tuple[np.ndarray, str]]:
    """Constant kernels of layers that are not among `signs`, and why they are not.

    They are (filters, height, width, inputs) or (units, inputs).
    """
    kernels = []
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "MatMul") or node.get_friendly_name() in signs:
            continue
        weights = node.input_value(1).get_node()
        if isinstance(weights, Constant):
            values = weights.get_data().copy()
            columns = node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_b"]
            values = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values.T if columns else values
            kernels.append((values, obstacle(node) or "not asked for"))
    return kernels


def _with_int8(model: ov.Model, signs: Sequence[str], images: np.ndarray, batch_size: int) -> ov.Model:
    """The model with its other layers quantized to int8 by NNCF."""
    import nncf

    batches = [images[place : place + batch_size] for place in range(0, len(images) - batch_size + 1, batch_size)]
    ignored = nncf.IgnoredScope(names=list(signs), validate=False)
    return nncf.quantize(model, nncf.Dataset(batches), ignored_scope=ignored, subset_size=len(batches))
