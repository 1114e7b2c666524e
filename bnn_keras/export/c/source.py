"""Write the plan of a network as C99: constants, buffers and one function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np

from bnn_keras.export.c.steps import WORD, Chain, Convolution, Copy, Map, Plan, Pointwise, Step
from bnn_keras.export.description import Description

_LINE = 112  # characters
_INDENT = "    "
_FIRST, _SECOND = "pixel[0]", "pixel[1]"


def write_source(plan: Plan, description: Description, header: str, version: str) -> tuple[str, str]:
    """Return the text of the `.c` file and of the `.h` file.

    Args:
        plan: The steps of the network.
        description: What the network is.
        header: Name of the `.h` file.
        version: Version of this package.
    """
    body = "\n".join(_body(plan, constants := _Constants()))
    buffers = _buffers(plan)
    flash = constants.bytes
    ram = 4 * (plan.reals + plan.words) + 4 * _pixels(plan) * plan.pixel + plan.bytes
    origin = f"/* {_comment(description.name)}, written by bnn-keras {version}. */\n"
    source = (
        f"{origin}{_INCLUDES.format(header=header)}\n{constants.text}\n{buffers}\n{_functions(body)}"
        f"int bnn_predict(const float *image, float *logits)\n{{\n{body}\n    return best;\n}}\n"
    )
    height, width, channels = plan.image.shape
    sizes = {
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "INPUTS": plan.image.size,
        "CLASSES": plan.steps[-1].output.size,
        "FLASH_BYTES": flash,
        "RAM_BYTES": ram,
    }
    defines = "".join(f"#define BNN_{name} {value}\n" for name, value in sizes.items())
    return source, f"{origin}{_HEADER.format(defines=defines)}"


_INCLUDES = """#include <float.h>
#include <limits.h>
#include <stdint.h>

#ifndef BNN_HEADER
#define BNN_HEADER "{header}"
#endif
#include BNN_HEADER

#if INT_MAX < 2147483647
#error "int must have at least 32 bits"
#endif
"""

_HEADER = """#ifndef BNN_PREDICT_H
#define BNN_PREDICT_H

/* FLASH_BYTES are those of the constants, without code; RAM_BYTES those of the buffers, without the stack. */
{defines}
#ifdef __cplusplus
extern "C" {{
#endif

/* Compute the logits of an image and return the class with the largest one. The image has BNN_HEIGHT rows of BNN_WIDTH
   pixels of BNN_CHANNELS values, normalised as for the training. The function uses static buffers: it may not run twice
   at the same time. */
int bnn_predict(const float *image, float *logits);

#ifdef __cplusplus
}}
#endif

#endif
"""


class _Constants:
    """The constant arrays of a network. Equal arrays are written once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._names: dict[bytes, str] = {}
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """The arrays as C."""
        return "\n".join(self._texts)

    def reals(self, values: np.ndarray, name: str) -> str:
        """Add an array of float32, and return its name."""
        values = np.ravel(values).astype(np.float32)
        return self._add(values, name, "float", [f"{value}f" for value in values])

    def bytes_(self, values: np.ndarray, name: str) -> str:
        """Add an array of int8, and return its name."""
        values = np.ascontiguousarray(values).ravel()
        return self._add(values, name, "int8_t", list(map(str, values)))

    def bits(self, signs: np.ndarray, name: str) -> str:
        """Add the bits of an array of signs whose last axis starts at a new word; return its name."""
        bits = signs > 0
        padding = [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % WORD)]
        words = np.packbits(np.pad(bits, padding).ravel(), bitorder="little").view("<u4")
        return self._add(words, name, "uint32_t", [f"0x{word:08x}u" for word in words])

    def _add(self, values: np.ndarray, name: str, kind: str, items: Sequence[str]) -> str:
        key = kind.encode() + values.tobytes()
        if key not in self._names:
            self._names[key] = f"{name}_{len(self._names)}"
            self.bytes += values.nbytes
            self._texts.append(f"static const {kind} {self._names[key]}[{len(values)}] = {{\n{_lines(items)}\n}};\n")
        return self._names[key]


def _lines(items: Sequence[str]) -> str:
    """Return items of an array in lines."""
    longest = max(map(len, items)) + 2
    across = max(1, (_LINE - len(_INDENT)) // longest)
    return "\n".join(_INDENT + ", ".join(items[start : start + across]) + "," for start in range(0, len(items), across))


def _pixels(plan: Plan) -> int:
    """Return how many pixels are computed at a time: two with a pool."""
    return 2 if any(step.chain.pool for step in plan.steps) else 1


def _buffers(plan: Plan) -> str:
    lines = [f"static float pixel[{_pixels(plan)}][{plan.pixel}];"]
    lines += [f"static float reals[{plan.reals}];"] if plan.reals else []
    lines += [f"static uint32_t signs[{plan.words}];"] if plan.words else []
    lines += [f"static int8_t bytes[{plan.bytes}];"] if plan.bytes else []
    return "\n".join(lines) + "\n"


def _functions(body: str) -> str:
    """Return the functions of `kernels.c` that a text calls, and those that they call, in their order."""
    text = resources.files(__package__).joinpath("kernels.c").read_text(encoding="utf-8")
    paragraphs = text.split("\n\n")[1:]
    functions = {re.search(r"^static \w+ (\w+)\(", text, re.MULTILINE).group(1): text for text in paragraphs}  # type: ignore[union-attr]
    needed: set[str] = set()
    texts = [body]
    while texts:
        called = {name for name in re.findall(r"\b(\w+)\(", texts.pop()) if name in functions} - needed
        needed |= called
        texts += [functions[name].split("{", 1)[1] for name in called]
    return "".join(f"{functions[name].strip()}\n\n" for name in functions if name in needed)


def _body(plan: Plan, constants: _Constants) -> Iterator[str]:
    """Yield the lines of `bnn_predict` without the last one."""
    yield f"{_INDENT}int best, class;"
    for step in plan.steps:
        yield ""
        yield from _step(step, constants)
    yield ""
    yield f"{_INDENT}for (best = 0, class = 1; class < BNN_CLASSES; ++class)"
    yield f"{2 * _INDENT}best = logits[class] > logits[best] ? class : best;"


def _step(step: Step, constants: _Constants) -> Iterator[str]:
    """Yield the lines that compute one map."""
    chain, output = step.chain, step.output
    height, width, channels = chain.shape
    names = ", ".join(map(_comment, chain.names)) or "copy"
    yield f"{_INDENT}{{ /* {names}: {height} x {width} x {channels}{' signs' if output.bits else ''} */"
    source = chain.source
    if isinstance(source, Convolution) and source.bytes:
        yield f"{2 * _INDENT}const float scale = quantize(bytes, {_pointer(source.map)}, {source.map.size});"
    yield f"{2 * _INDENT}int y, x;"
    if output.bits:
        yield f"{2 * _INDENT}clear({_pointer(output)}, {output.size});"
    yield f"{2 * _INDENT}for (y = 0; y < {height}; ++y)"
    yield f"{3 * _INDENT}for (x = 0; x < {width}; ++x) {{"
    for line in _pixel(chain, constants):
        yield f"{4 * _INDENT}{line}"
    place = f"(y * {width} + x)"
    if output.bits:
        pitch = channels if chain.flat else output.pitch
        yield f"{4 * _INDENT}store_signs({_pointer(output)}, {place} * {pitch}, {_FIRST}, {channels});"
    else:
        yield f"{4 * _INDENT}store({_pointer(output)} + {place} * {channels}, {_FIRST}, {channels});"
    yield f"{3 * _INDENT}}}"
    yield f"{_INDENT}}}"


def _pixel(chain: Chain, constants: _Constants) -> Iterator[str]:
    """Yield the lines that compute the pixel (y, x) of a chain."""
    if not chain.pool:
        yield from _source(chain, _FIRST, "y", "x", constants)
        return
    pool, (height, width, channels) = chain.pool, chain.inner
    yield f"fill({_FIRST}, {'-FLT_MAX' if pool.maximum else '0.0f'}, {channels});"
    bounds = {}
    for name, outer, axis, length in (("i", "y", 0, height), ("j", "x", 1, width)):
        stride, padding, window = pool.strides[axis], pool.padding[axis], pool.size[axis]
        start = f"{outer} * {stride} - {padding}" if padding else f"{outer} * {stride}"
        bounds[name] = (f"larger(0, {start})" if padding else start, f"smaller({length}, {start} + {window})")
    yield "{"
    yield f"{_INDENT}const int top = {bounds['i'][0]}, bottom = {bounds['i'][1]};"
    yield f"{_INDENT}const int left = {bounds['j'][0]}, right = {bounds['j'][1]};"
    yield f"{_INDENT}int i, j;"
    yield f"{_INDENT}for (i = top; i < bottom; ++i)"
    yield f"{2 * _INDENT}for (j = left; j < right; ++j) {{"
    for line in _source(chain, _SECOND, "i", "j", constants):
        yield f"{3 * _INDENT}{line}"
    yield f"{3 * _INDENT}{'maximum' if pool.maximum else 'add'}({_FIRST}, {_SECOND}, {channels});"
    yield f"{2 * _INDENT}}}"
    if not pool.maximum:
        divisor = f"{pool.divisor}.0f" if pool.divisor else "(float)((bottom - top) * (right - left))"
        yield f"{_INDENT}divide({_FIRST}, {divisor}, {channels});"
    yield "}"
    yield from _applied(chain.after, channels, _FIRST, "y", "x", constants)


def _source(chain: Chain, target: str, y: str, x: str, constants: _Constants) -> Iterator[str]:
    """Yield the lines that compute a pixel in front of the pool."""
    source = chain.source
    height, width, channels = source.map.shape
    added = sum(item.added for item in chain.before)
    given = chain.inner[2] - added
    place = ", ".join(
        _position(name, stride, offset)
        for name, stride, offset in zip((y, x), source.strides, _offsets(source), strict=True)
    )
    if isinstance(source, Copy):
        yield f"copy({target}, {_pointer(source.map)}, {height}, {width}, {channels}, {place});"
    else:
        rows, columns, _, filters = source.kernel.shape
        name = _identifier(chain.names[0] if chain.names else "kernel")
        inputs, size = _pointer(source.map), f"{channels}"
        if source.map.bits:
            kernel = constants.bits(source.kernel.transpose(3, 0, 1, 2), name)
            function, size = "convolve_bits", f"{channels}, {source.map.words}"
        elif source.binary:
            function, kernel = "convolve_signed", constants.bits(source.kernel.ravel(), name)
        elif source.bytes:
            function, inputs, place = "convolve_bytes", "bytes", f"{place}, scale"
            kernel = constants.bytes_(source.kernel.transpose(3, 0, 1, 2), name)
        else:
            function, kernel = "convolve", constants.reals(source.kernel, name)
        yield (
            f"{function}({target}, {inputs}, {height}, {width}, {size}, {kernel}, {rows}, {columns}, {filters}, "
            f"{place});"
        )
    yield from _applied(chain.before, given, target, y, x, constants)


def _offsets(source: Copy | Convolution) -> tuple[int, int]:
    return source.offsets if isinstance(source, Copy) else (-source.padding[0], -source.padding[1])


def _applied(
    items: Sequence[Pointwise], channels: int, target: str, y: str, x: str, constants: _Constants
) -> Iterator[str]:
    """Yield the calls of functions on a pixel."""
    for item in items:
        function, arrays = item.function, item.arrays
        if function == "affine" and not np.any(arrays[1]):
            function, arrays = "multiply", arrays[:1]
        elif function == "affine" and np.all(arrays[0] == 1):
            function, arrays = "add", arrays[1:]
        arguments = [
            target,
            *(constants.reals(values, function) for values in arrays),
            *(f"{np.float32(number)}f" for number in item.numbers),
            *map(str, item.sizes),
        ]
        if item.other:
            place = f"({y} * {item.other.shape[1]} + {x}) * {channels}"
            arguments.append(f"{_pointer(item.other)} + {place}")
        yield f"{function}({', '.join([*arguments, str(channels)])});"
        channels += item.added


def _position(name: str, stride: int, offset: int) -> str:
    """Return stride · name + offset as C."""
    product = {1: name, -1: f"-{name}"}.get(stride, f"{name} * {stride}")
    return product if not offset else f"{product} {'+' if offset > 0 else '-'} {abs(offset)}"


def _pointer(map_: Map) -> str:
    """Return the address of a map as C."""
    if map_.role != "buffer":
        return map_.role
    buffer = "signs" if map_.bits else "reals"
    return f"{buffer} + {map_.offset}" if map_.offset else buffer


def _identifier(name: str) -> str:
    """Return a name as a C identifier that is no other name of the file once a number is appended."""
    return "k_" + re.sub(r"\W", "_", name, flags=re.ASCII)


def _comment(name: str) -> str:
    """Return a name as text of a C comment."""
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)
