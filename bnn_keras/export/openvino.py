"""OpenVINO, for x86. A graph pass replaces convolutions of signs by `BinaryConvolution`; OpenVINO's converter does not.

The CPU plugin computes them with XNOR and popcount. It requires (found by experiment, see docs/deploying.md):
`FakeQuantize` with two levels, 0 and 1, and a threshold just below 0; kernel bits as `u1` in OIHW order, the least
significant bit first; a multiple of 8 input channels, or results are wrong; static shapes.

Kernels of other binary layers are stored in one bit per weight, too, in front of the operations that decode them.
OpenVINO computes constants when it compiles a model, so that these layers run as with float kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import Constant

from bnn_keras.errors import BnnError
from bnn_keras.export import worker
from bnn_keras.export.constants import FloatLayers, find_float_layers, scales_of
from bnn_keras.export.job import ExportJob
from bnn_keras.export.openvino_fusing import fuse_clips, keep_scales, slice_maps
from bnn_keras.export.openvino_rotation import fold_rotation
from bnn_keras.export.predictors import Predictor, in_batches

# FakeQuantize returns 0 up to its threshold, the largest normal number below 0. So +0 and −0 give 1: their sign is +1.
_BELOW_ZERO = np.float32(-np.finfo(np.float32).tiny)
_CHANNELS = 8

# Operations that stay float in int8 files with binary layers.
_FLOAT_AROUND_SIGNS = ["Add", "Multiply", "AvgPool", "MaxPool", "ReduceMean"]

Constants = Sequence[tuple[np.ndarray, str]]


class _Kernel(NamedTuple):
    """The constant kernel of a layer, and its axis of filters."""

    layer: ov.Node
    constant: Constant
    axis: int


def convert(job: ExportJob, file: Path) -> FloatLayers:
    """Write an `.xml` file and the `.bin` file beside it.

    Args:
        job: The network. `floats` is the type that real-valued layers compute in: "float32"; "bfloat16", a hint to the
            device when the file is loaded; or "int8", calibrated by NNCF.
        file: The `.xml` file to write.

    Returns:
        The binary layers that are not stored or not computed in one bit.

    Raises:
        BnnError: The converter crashed.
        ImportError: `floats` is "int8" and NNCF is not installed.
    """
    calibration = job.calibration() if job.floats == "int8" else None
    stored, computed = worker.call(f"{__name__}:write", str(job.graph), str(file), job.batch_size, calibration)
    return FloatLayers(find_float_layers(job.kernels, stored), find_float_layers(job.kernels, computed))


def write(
    graph: str, file: str, batch_size: int, calibration: np.ndarray | None = None, binary: bool = True
) -> tuple[Constants, Constants]:
    """Convert a SavedModel to an `.xml` and a `.bin` file. Runs in the worker.

    Args:
        graph: The SavedModel.
        file: The `.xml` file.
        batch_size: Images per batch; the file's shapes are static.
        calibration: Images to calibrate int8 with; if None, real-valued layers stay float.
        binary: Use binary convolutions, and store binary kernels in one bit per weight; if False, every layer is float.

    Returns:
        The kernels that are not stored, and those that are not computed in one bit, (filters, height, width, inputs) or
        (units, inputs), and why.

    Raises:
        OSError: The files cannot be written.
    """
    model = ov.convert_model(graph)
    model.reshape({model.inputs[0]: [batch_size, *list(model.inputs[0].partial_shape)[1:]]})
    if binary:
        model = fold_rotation(model)
        fuse_clips(model)
        slice_maps(model)
    signs = [node.get_friendly_name() for node in model.get_ordered_ops() if binary and is_sign_convolution(node)]
    computed = [
        (_by_filter(kernel), obstacle(kernel.layer) or "binary convolutions are disabled")
        for kernel in _kernels(model)
        if kernel.layer.get_friendly_name() not in signs
    ]
    if calibration is not None:
        model = _with_int8(model, signs, calibration, batch_size)
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in signs:
            binarize(node)
    if calibration is not None:
        keep_scales(model)
    stored = [kernel for kernel in _kernels(model) if not (binary and _store_in_bits(kernel))]
    model.validate_nodes_and_infer_types()
    try:
        ov.save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return [(_by_filter(kernel), "a filter has values of several magnitudes") for kernel in stored], computed


def load(file: Path, floats: str = "float32", batch_size: int | None = None, threads: int | None = None) -> Predictor:
    """Return a predictor that runs a file with OpenVINO.

    Raises:
        BnnError: The file cannot be read, has another batch size, or makes OpenVINO crash.
    """
    try:
        fixed = worker.call(f"{__name__}:batch_size_of", str(file), floats, threads)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BnnError(f"OpenVINO cannot read {str(file)!r} ({reason}); export again") from error
    if batch_size not in (None, fixed):
        raise BnnError(
            f"{str(file)!r} has a batch size of {fixed}, got {batch_size}; export again with --batch-size {batch_size}"
        )
    return lambda images: worker.call(f"{__name__}:predictions", str(file), floats, threads, images)


def batch_size_of(file: str, floats: str, threads: int | None) -> int:
    """Return the fixed batch size of a file. Runs in the worker."""
    return _compiled_file(file, floats, threads, Path(file).stat().st_mtime_ns).inputs[0].shape[0]


def predictions(file: str, floats: str, threads: int | None, images: np.ndarray) -> np.ndarray:
    """Return the outputs of a file for any number of images. Runs in the worker."""
    compiled = _compiled_file(file, floats, threads, Path(file).stat().st_mtime_ns)
    return in_batches(inference(compiled), compiled.inputs[0].shape[0])(images)


@functools.lru_cache(maxsize=1)
def _compiled_file(file: str, floats: str, threads: int | None, modified: int) -> ov.CompiledModel:
    """Return a compiled file; `modified`, its modification time in ns, makes the cache load a rewritten file again."""
    return compiled_model(ov.Core().read_model(file), threads, floats)


def compiled_model(
    model: ov.Model, threads: int | None, floats: str = "float32", **properties: Any
) -> ov.CompiledModel:
    """Compile a model for the CPU plugin, with further properties of the plugin; it computes in float32 by default."""
    properties["INFERENCE_PRECISION_HINT"] = "bf16" if floats == "bfloat16" else "f32"
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    return ov.Core().compile_model(model, "CPU", properties)


def inference(compiled: ov.CompiledModel) -> Predictor:
    """Return a function that runs a compiled model on a batch of its size.

    All calls use one request and its tensors. `compiled(batch)` creates a tensor and a dictionary of outputs each time,
    which takes as long as a small network.
    """
    request = compiled.create_infer_request()
    inputs, outputs = request.get_input_tensor().data, request.get_output_tensor().data

    def infer(batch: np.ndarray) -> np.ndarray:
        inputs[:] = batch.reshape(inputs.shape)
        request.infer(share_outputs=True)
        return outputs.copy()

    return infer


def binarize(node: ov.Node) -> None:
    """Replace conv(sign(x), ±α) by α · BinaryConvolution(x ≥ 0, bits).

    With input bits b and kernel bits k, a binary convolution is Σ (2 · (b xnor k) − 1), and padding counts as zero.
    Input channels are padded to a multiple of 8, in pairs that cancel: two inputs of +1, with kernels of −1 and +1.
    """
    x = _argument_of_sign(node)
    weights = node.input_value(1).get_node().get_data().astype(np.float32)
    scales = _scales(weights)
    assert x is not None
    x = _unfused(x)
    missing = -weights.shape[1] % _CHANNELS
    if missing:
        x = ops.pad(x, [0] * 4, [0, missing, 0, 0], "constant", np.float32(1)).output(0)
        padding = np.ones((len(weights), missing, *weights.shape[2:]), np.float32)
        padding[:, ::2] = -1
        weights = np.concatenate([weights, padding], axis=1)
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
    """Return whether `binarize` can replace a node."""
    return obstacle(node) is None


def obstacle(node: ov.Node) -> str | None:
    """Return why `binarize` cannot replace a node, or None if it can."""
    if node.get_type_name() != "Convolution" or not isinstance(node.input_value(1).get_node(), Constant):
        return "it is not a convolution with a constant kernel"
    weights = node.input_value(1).get_node().get_data()
    padding = max(*node.get_attributes()["pads_begin"], *node.get_attributes()["pads_end"])
    if not np.allclose(np.abs(weights), _scales(weights).reshape(-1, 1, 1, 1), rtol=1e-5, atol=0):
        return "a filter has values of several magnitudes"
    if weights.shape[1] % 2:
        return f"it has {weights.shape[1]} input channels, an odd number"
    if padding >= min(weights.shape[2:]):  # OpenVINO's result is wrong for windows that hold only padding
        return f"its padding of {padding} is as wide as its kernel"
    return None if _argument_of_sign(node) is not None else "its inputs are not signs"


def _scales(weights: np.ndarray) -> np.ndarray:
    """Return the magnitude of each filter of a kernel in OIHW order."""
    return np.abs(weights).reshape(len(weights), -1).max(axis=1)


def _argument_of_sign(node: ov.Node) -> ov.Output | None:
    """Return `x` if the convolution's input is Larq's `sign(x)`, else None.

    Larq computes it as Sign(Sign(x) + 0.1). If the signs are padded with ones, return `x` padded with ones, which has
    the same signs.
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
    """Return the inputs of the `inner` node if `value` is the output of outer(inner(…)), else None."""
    node = value.get_node()
    if node.get_type_name() != outer:
        return None
    node = node.input_value(0).get_node()
    return node.input_values() if node.get_type_name() == inner else None


def _unfused(x: ov.Output) -> ov.Output:
    """Return `x`, behind a max pool of size 1 if OpenVINO must not fuse it with the sign that follows.

    OpenVINO fuses a binary convolution, an addition and a sign into one node if only the sign uses the sum; its results
    are wrong. It crashes on the signs of a transposed input.
    """
    node = x.get_node()
    summed = node.get_type_name() == "Add" and not any(
        isinstance(value.get_node(), Constant) for value in node.input_values()
    )
    if node.get_type_name() == "Transpose" or (summed and len(x.get_target_inputs()) == 1):
        return ops.max_pool(x, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1]).output(0)
    return x


def _number(value: ov.Output) -> float | None:
    """Return the value of a scalar constant, or None."""
    node = value.get_node()
    if not isinstance(node, Constant) or np.prod(node.get_output_shape(0)) != 1:
        return None
    return float(node.get_data().ravel()[0])


def _kernels(model: ov.Model) -> Iterator[_Kernel]:
    """Yield the constant kernels of a model. Those of NNCF are int8, converted to float and multiplied by scales."""
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "MatMul"):
            continue
        value = node.input_value(1).get_node()
        while value.get_type_name() in ("Multiply", "Convert"):
            value = value.input_value(0).get_node()
        if isinstance(value, Constant):
            columns = node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_b"]
            yield _Kernel(node, value, -1 % len(value.shape) if columns else 0)


def _by_filter(kernel: _Kernel) -> np.ndarray:
    """Return the values of a kernel, (filters, height, width, inputs) or (units, inputs)."""
    values = np.moveaxis(kernel.constant.get_data(), kernel.axis, 0).copy()
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


def _store_in_bits(kernel: _Kernel) -> bool:
    """Store a kernel ±α as one bit b per weight, the most significant bit first, and compute it as 2α · b − α.

    Returns:
        Whether the kernel is ±α. Others stay as they are.
    """
    values = kernel.constant.get_data()
    scales = scales_of(values, kernel.axis)
    if scales is None:
        return False
    bits = np.packbits(~np.signbit(values.astype(np.float32)).ravel())
    constant = Constant(ov.Tensor(bits, ov.Shape(values.shape), ov.Type.u1), shared_memory=False)
    decoded = ops.subtract(ops.multiply(ops.convert(constant, np.float32), 2 * scales), scales)
    if values.dtype != np.float32:
        decoded = ops.convert(decoded, values.dtype)
    for target in kernel.constant.output(0).get_target_inputs():
        target.replace_source_output(decoded.output(0))
    return True


def _with_int8(model: ov.Model, signs: Sequence[str], images: np.ndarray, batch_size: int) -> ov.Model:
    """Return the model with all layers but `signs` quantized to int8 by NNCF.

    Around binary layers only convolutions and dense layers are quantized, because rounding in front of a sign can
    flip it, and quantizing the operands of sums and pools takes longer than these save in int8.
    """
    import nncf

    batches = [images[start : start + batch_size] for start in range(0, len(images) - batch_size + 1, batch_size)]
    ignored = nncf.IgnoredScope(names=list(signs), types=_FLOAT_AROUND_SIGNS if signs else [], validate=False)
    return nncf.quantize(model, nncf.Dataset(batches), ignored_scope=ignored, subset_size=len(batches))
