"""Procedural weights, inputs and labels of the golden files (numpy only).

Every tensor is a pure function of (seed, index, shape, kind); see README.md for
the grammar of `kind`.  `index` is the position of the tensor in the reference
module's state_dict (buffers included), i.e. its position in the `names` list of
the .npz.  All floating tensors are rounded to float32, so a float64 consumer and a
float32 consumer start from bit-identical values.
"""

import json

import numpy as np

INPUT_INDEX = 1_000_000
LABEL_INDEX = 1_000_001


def _rng(seed, index):
    return np.random.default_rng([int(seed), int(index)])


def tensor(seed, index, shape, kind):
    """Value of one state_dict entry: float32 ndarray (int64 for kind 'count')."""
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
        # drawn as an OIHW kernel, stored flattened in C order (shape is (o*i*kh*kw, 1))
        value = (rng.standard_normal((o, i, kh, kw)) * std).reshape(shape)
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
    """Input batch, NCHW float32, standard normal."""
    return _rng(seed, INPUT_INDEX).standard_normal(tuple(shape)).astype(np.float32)


def labels(seed, batch, classes):
    return _rng(seed, LABEL_INDEX).integers(0, int(classes), int(batch)).astype(np.int64)


def keras_tensor(seed, index, shape, kind):
    """As `tensor`, for Keras layouts: kernels are drawn as OIHW / OI and returned as HWIO / IO."""
    if kind == "conv":
        h, w, i, o = shape
        return tensor(seed, index, (o, i, h, w), kind).transpose(2, 3, 1, 0)
    if kind == "linear":
        i, o = shape
        return tensor(seed, index, (o, i), kind).T
    return tensor(seed, index, shape, kind)


def state_dict(seed, names, keras=False):
    """names: list of [name, shape, kind] (the parsed `names` field of an .npz)."""
    value = keras_tensor if keras else tensor
    return {n: value(seed, i, s, k) for i, (n, s, k) in enumerate(names)}


def load(path):
    """Open a golden; returns (npz, meta, names, weights, x, y)."""
    z = np.load(path, allow_pickle=False)
    meta = json.loads(str(z["meta"]))
    names = json.loads(str(z["names"]))
    w = state_dict(meta["seed"], names, keras=meta.get("layout", "").startswith("keras"))
    x = z["x"] if "x" in z.files else inputs(meta["seed"], meta["input_shape"])
    return z, meta, names, w, x, z["y"]


def checksums(value):
    v = np.asarray(value, np.float64)
    return float(v.sum()), float(np.sqrt((v * v).sum()))
