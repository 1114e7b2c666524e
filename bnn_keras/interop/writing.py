"""Write a network as the reference's trainer stores it: its state dict, complete and in its order, and its progress."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnn_keras import catalog
from bnn_keras.errors import BnnError
from bnn_keras.interop.files import KERAS_SUFFIX, TORCH_SUFFIXES, write_torch
from bnn_keras.interop.progress import Progress, parameter_groups
from bnn_keras.interop.reference import Tensor, layout_of, tensors_of

_BITS = 8  # of a byte
_LAST_MODULES = ("down_conv1x1", "downsample", "shortcut")  # in this order, behind the other modules of a block


def state_dict(model: tf.keras.Model, packed: bool = False) -> dict[str, np.ndarray]:
    """Return the tensors of the reference's state dict, in its order, so that it loads strictly.

    Tensors that the reference never uses have their initial values. The counters `num_batches_tracked` are missing:
    PyTorch accepts that in state dicts without a version, and no version reads them at a fixed momentum.

    Args:
        model: A network of the catalog, with latent weights.
        packed: Whether kernels that the layers quantize are signs packed along the input channels: bit 1 is +.

    Raises:
        BnnError: The reference uses a tensor that the model does not have, or cannot read packed signs.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> model = build_model(resolve("lenet5").experiment)
        >>> list(state_dict(model))[-2:]
        ['ip2.weight', 'ip2.bias']
    """
    layout, tensors = layout_of(model), tensors_of(model)
    for name, filler in layout.unused.items():
        if filler is None:
            raise BnnError(
                f"the reference of {model.name} stores {name!r}, which is no weight of the network here; no file for "
                "it can be written: choose another scheme"
            )
    values = {tensor.name: tensor.to_reference(tensor.variable.numpy()) for tensor in tensors}
    if packed:
        values |= {tensor.name: _packed(model, tensor, values[tensor.name]) for tensor in _packable(model, tensors)}
    classes = model.output_shape[-1]
    values |= {name: _filled(*filler, classes) for name, filler in layout.unused.items() if filler}
    return {name: values[name] for name in module_order(values)}


def _filled(shape: tuple[int, ...], value: float, classes: int) -> np.ndarray:
    return np.full([classes if size == -1 else size for size in shape], value, np.float32)


def _packable(model: tf.keras.Model, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the binary kernels of a model whose reference reads packed signs.

    Raises:
        BnnError: It does not, or the model has no binary kernels.
    """
    binary = [tensor for tensor in tensors if tensor.binary]
    if not layout_of(model).packs or not binary:
        rows = [row.name for row in catalog.NETWORKS.values() if row.reference and row.reference.packs]
        raise BnnError(
            f"the reference of {model.name} does not read packed signs; export to 'reference', or export one of "
            f"{', '.join(rows)} with a binary scheme"
        )
    return binary


def _packed(model: tf.keras.Model, tensor: Tensor, value: np.ndarray) -> np.ndarray:
    if value.shape[1] % _BITS:
        raise BnnError(
            f"{tensor.name} of {model.name} has {value.shape[1]} input channels; the reference reads packed signs of "
            f"multiples of {_BITS} only: export to 'reference', which is not packed"
        )
    return np.packbits(value >= 0, axis=1)


def optimizer_groups(model: tf.keras.Model) -> list[list[str]]:
    """Return the names of the parameters in each group of the optimizer of a model's reference.

    Example:
        >>> from bnn_keras import build_model, resolve
        >>> len(optimizer_groups(build_model(resolve("wrn_20_1").experiment)))
        1
    """
    shapes = {name: value.shape for name, value in state_dict(model).items()}
    return parameter_groups(layout_of(model).file, shapes)


def module_order(names: Iterable[str]) -> list[str]:
    """Return names of tensors in the order in which PyTorch lists them.

    A module lists its own tensors first, then those of the modules in it, in the order in which they were registered.
    That is the order of the computation, except that the references register a shortcut's modules last in a block.

    Args:
        names: Names in the order of the computation.

    Example:
        >>> module_order(["a.conv.weight", "a.downsample.weight", "a.bn.bias", "scale"])
        ['scale', 'a.conv.weight', 'a.bn.bias', 'a.downsample.weight']
    """
    own: list[str] = []
    inner: dict[str, list[str]] = {}
    for name in names:
        module, point, rest = name.partition(".")
        if point:
            inner.setdefault(module, []).append(rest)
        else:
            own.append(name)
    modules = sorted(inner, key=lambda module: _LAST_MODULES.index(module) + 1 if module in _LAST_MODULES else 0)
    return own + [f"{module}.{name}" for module in modules for name in module_order(inner[module])]


def write_checkpoint(
    file: str | Path, model: tf.keras.Model, progress: Progress | None = None, packed: bool = False
) -> None:
    """Write a network to a checkpoint file that the reference's code loads.

    Args:
        file: The file: .pth, .pth.tar, .th or .pt; for references in Keras .h5.
        model: A network of the catalog, with latent weights.
        progress: How far the training is. None: a training that has not begun.
        packed: See `state_dict`. The file is a state dict alone then, as binary-wide-resnet publishes it.

    Raises:
        BnnError: The file has another suffix; or as `state_dict`.
        ImportError: PyTorch is needed and not installed.

    Example:
        >>> from bnn_keras import build_model, interop, resolve
        >>> interop.write_checkpoint("lenet5.onnx", build_model(resolve("lenet5").experiment))
        Traceback (most recent call last):
        bnn_keras.errors.BnnError: 'lenet5.onnx' is not the name of a PyTorch file; name it 'lenet5.pth.tar'
    """
    path, layout = Path(file), layout_of(model).file
    if layout.kind == "keras":
        _write_keras(path, model)
        return
    if path.suffix.lower() not in TORCH_SUFFIXES:
        raise BnnError(f"{str(path)!r} is not the name of a PyTorch file; name it {path.stem + '.pth.tar'!r}")
    tensors = {_wrapped(name, layout.wrapped): value for name, value in state_dict(model, packed).items()}
    entries = _entries(layout, progress or Progress(), state_dict(model))
    write_torch(path, tensors, None if packed else layout.state, entries)


def _write_keras(path: Path, model: tf.keras.Model) -> None:
    if path.suffix.lower() != KERAS_SUFFIX:
        raise BnnError(f"{str(path)!r} is not the name of a file of Keras's weights; name it {path.stem + '.h5'!r}")
    model.save_weights(path, save_format="h5")


def _wrapped(name: str, module: str | None) -> str:
    """Return the name of a tensor with `module.` behind the module that is within `torch.nn.DataParallel`."""
    if module == "":
        return f"module.{name}"
    begin = f"{module}."
    return f"{begin}module.{name.removeprefix(begin)}" if name.startswith(begin) else name


def _entries(layout: catalog.ReferenceFile, progress: Progress, tensors: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Return what a file holds beside the state dict, where the trainer stores it."""
    values: dict[str | None, Any] = {
        layout.epoch: max(progress.epoch - layout.epoch_of, 0),
        layout.best: progress.best_top1 or 0.0,
    }
    if progress.slots:
        values[layout.optimizer] = _optimizer(layout, progress, tensors)
        if progress.scheduler:
            values[layout.scheduler] = dict(progress.scheduler)
    return {**layout.constants, **{key: value for key, value in values.items() if key}}


def _optimizer(layout: catalog.ReferenceFile, progress: Progress, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the state of an optimizer as PyTorch stores it, with parameters numbered by their order in the groups."""
    groups = parameter_groups(layout, {name: value.shape for name, value in tensors.items()})
    numbers = {name: number for number, name in enumerate(itertools.chain(*groups))}
    step = {} if progress.step is None else {"step": progress.step}
    state = {
        number: {**step, **{slot: values[name] for slot, values in progress.slots.items()}}
        for name, number in numbers.items()
        if all(name in values for values in progress.slots.values())
    }
    written = [
        {**hyperparameters, "params": [numbers[name] for name in names]}
        for hyperparameters, names in zip(progress.groups, groups, strict=True)
    ]
    return {"state": state, "param_groups": written}
