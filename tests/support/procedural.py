"""Weights, inputs and labels of the golden files, generated from a seed (NumPy only).

Every tensor is a pure function of (seed, index, shape, kind). `index` is the position of the tensor in the state dict
of the reference (buffers included), which is its position in the list `names` of the golden file. All float tensors are
rounded to float32, so that float64 and float32 networks start from the same values.
"""

import json
import os
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"

INPUT_INDEX = 1_000_000
SMALLEST_LATENT = 2.0**-19


def _rng(seed, index):
    return np.random.default_rng([int(seed), int(index)])


def tensor(seed, index, shape, kind):
    """Return one tensor: float32, or int64 for kind "count".

    Args:
        seed: Seed of the golden file.
        index: Position of the tensor in the state dict.
        shape: Its shape in the reference's layout.
        kind: Distribution: "conv" and "linear" (normal, scaled by the fan-in), "flatconv:O,I,H,W" (a "conv" stored as
            one column), "latent" and "flatlatent:O,I,H,W" (the same without values near 0), "bias" and "beta", "gamma",
            "slope", "alpha", "mean", "var", "count" (zero), "const@v" (v everywhere). "@s" behind the others sets or
            multiplies the scale.
    """
    shape = tuple(int(s) for s in shape)
    base, _, arg = kind.partition("@")
    scale = float(arg) if arg else None
    rng = _rng(seed, index)
    if base == "count":
        return np.zeros(shape, np.int64)
    if base in ("conv", "linear"):
        fan_in = int(np.prod(shape[1:]))
        gain = 2.0 if base == "conv" else 1.0
        std = np.sqrt(gain / fan_in) if scale is None else scale
        value = rng.standard_normal(shape) * std
    elif base.startswith("flatconv:"):
        o, i, kh, kw = (int(v) for v in base[len("flatconv:") :].split(","))
        std = np.sqrt(2.0 / (i * kh * kw)) if scale is None else scale
        # drawn as an OIHW kernel, stored as one column of shape (o · i · kh · kw, 1)
        value = (rng.standard_normal((o, i, kh, kw)) * std).reshape(shape)
    elif base == "latent" or base.startswith("flatlatent:"):
        # a kernel without values near 0, because its sign is taken
        value = tensor(seed, index, shape, kind.replace("latent", "conv")).astype(np.float64)
        value = np.where(np.abs(value) < SMALLEST_LATENT, np.where(value < 0, -1, 1) * SMALLEST_LATENT, value)
    elif base == "alpha":
        value = rng.uniform(0.25, 1, shape)
    elif base == "const":
        value = np.full(shape, scale)
    elif base == "slope":
        value = rng.uniform(-0.1, 0.5, shape)
    elif base == "bias":
        value = rng.standard_normal(shape) * 0.1
    elif base == "gamma":
        value = rng.uniform(0.5, 1.5, shape)
    elif base == "beta":
        value = rng.standard_normal(shape) * 0.1
    elif base == "mean":
        value = rng.standard_normal(shape) * 0.3 * (1.0 if scale is None else scale)
    elif base == "var":
        value = rng.uniform(0.5, 2.0, shape) * (1.0 if scale is None else scale)
    else:
        raise ValueError(f"unknown kind {kind!r}")
    return value.astype(np.float32)


def inputs(seed, shape):
    """Return a batch of images, NCHW float32, standard normal."""
    return _rng(seed, INPUT_INDEX).standard_normal(tuple(shape)).astype(np.float32)


def keras_tensor(seed, index, shape, kind):
    """Return `tensor` in Keras's layout: kernels are drawn as OIHW / OI and returned as HWIO / IO."""
    if kind == "conv":
        h, w, i, o = shape
        return tensor(seed, index, (o, i, h, w), kind).transpose(2, 3, 1, 0)
    if kind == "linear":
        i, o = shape
        return tensor(seed, index, (o, i), kind).T
    return tensor(seed, index, shape, kind)


def state_dict(seed, names, keras=False):
    """Return {name: tensor} for a list of [name, shape, kind], the parsed field `names` of a golden file."""
    value = keras_tensor if keras else tensor
    return {n: value(seed, i, s, k) for i, (n, s, k) in enumerate(names)}


def load(path):
    """Open a golden file and return (fields, meta, names, weights, images, labels)."""
    fields = np.load(path, allow_pickle=False)
    meta = json.loads(str(fields["meta"]))
    names = json.loads(str(fields["names"]))
    weights = state_dict(meta["seed"], names, keras=meta.get("layout", "").startswith("keras"))
    images = fields["x"] if "x" in fields.files else inputs(meta["seed"], meta["input_shape"])
    return fields, meta, names, weights, images, fields["y"]


def quantizer_values(name="quantizers"):
    """Return the golden values of quantizers by name: of the first five papers, or of "quantizers_more"."""
    with np.load(Path(os.environ.get("BNN_KERAS_GOLDENS", GOLDEN)) / f"{name}.npz") as values:
        return dict(values)
