"""Diagrams of networks as SVG: binary and real layers, shapes, bits and shortcuts, on light and dark pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tensorflow as tf

from bnn_keras.counts import Kernel, count, footer, kernels
from bnn_keras.errors import BnnError
from bnn_keras.files import replacing
from bnn_keras.graphs import Node, nodes_of, parents_of
from bnn_keras.text import printable

# Class of a box, by bits of weights / inputs, and its entry in the legend. Bits are written in each box, too.
_KINDS = {
    "1/1": ("binary", "1-bit weights and inputs"),
    "1/32": ("weights", "1-bit weights, real inputs"),
    "32/1": ("inputs", "real weights, 1-bit inputs"),
    "32/32": ("real", "real weights and inputs"),
}
_STYLE = """
text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; font-size: 12px; fill: #1b1f24 }
.head { font-size: 18px; font-weight: 600 } .name, .bits { font-weight: 600 } .note { fill: #57606a }
.right { text-anchor: end }
.edge { fill: none; stroke: #6e7781; stroke-width: 1.5 } .tip { fill: #6e7781 }
.page { fill: #ffffff } .sum { fill: #ffffff; stroke: #6e7781; stroke-width: 1.5 }
.binary { fill: #d3e8f8; stroke: #0072b2 } .weights { fill: #d2efe5; stroke: #00805d }
.inputs { fill: #ecdff6; stroke: #7b4fa3 } .real { fill: #fce8d6; stroke: #c4570a }
.plain { fill: #f3f4f6; stroke: #8b949e }
@media (prefers-color-scheme: dark) {
text { fill: #e8edf2 } .note { fill: #a9b4c0 }
.edge { stroke: #8b949e } .tip { fill: #8b949e }
.page { fill: #14171c } .sum { fill: #14171c; stroke: #8b949e }
.binary { fill: #11384f; stroke: #56b4e9 } .weights { fill: #0e3d32; stroke: #3fd0a4 }
.inputs { fill: #3a2a4c; stroke: #c39be6 } .real { fill: #4a2e15; stroke: #f0a05a }
.plain { fill: #262b33; stroke: #6e7781 }
}
"""
_WORDS: tuple[tuple[type, str], ...] = (
    (tf.keras.layers.BatchNormalization, "batch norm"),
    (tf.keras.layers.GlobalAveragePooling2D, "global average pool"),
    (tf.keras.layers.Concatenate, "concatenate"),
    (tf.keras.layers.Flatten, "flatten"),
    (tf.keras.layers.Dropout, "dropout"),
)
_SUMS = ("math.add", "__operators__.add")  # names that Keras gives to operations of TensorFlow
_POOLS = ((tf.keras.layers.MaxPooling2D, "max pool"), (tf.keras.layers.AveragePooling2D, "average pool"))

# Lengths in pixels.
_MARGIN = 24
_HEAD = 74
_LEGEND_ROW = 22
_BOX_HEIGHT = 44
_PILL_HEIGHT = 26
_GAP = 20
_SUM_GAP = 42  # below a box with a sum: its circle, then the line of a shortcut
_RADIUS = 8
_LANE = 14
_MIN_WIDTH = 380
_CHARACTER = 6.3  # mean width


@dataclasses.dataclass(eq=False)
class _Block:
    """Calls of layers that are drawn as one box: a layer with kernels and what follows it, or layers without kernels.

    Attributes:
        nodes: The calls, first one first; none for the input.
        kernels: Kernels of the first layer.
        inputs: Blocks whose outputs the first call receives.
        shortcuts: Blocks whose outputs are added behind it.
        title: First line.
        shape: Shape of the output.
        rank: Row of the diagram.
        column: Column of the diagram.
    """

    nodes: list[Node]
    kernels: list[Kernel]
    inputs: list[_Block]
    shortcuts: list[_Block] = dataclasses.field(default_factory=list)
    rank: int = 0
    column: int = 0

    @property
    def height(self) -> int:
        return _BOX_HEIGHT if self.kernels else _PILL_HEIGHT

    @property
    def operations(self) -> str:
        """What the layers compute, in their order."""
        words = [*map(_kernel_words, self.kernels[:1])]
        words += [_words(node.layer) for node in self.nodes[bool(self.kernels) :]]
        if self.shortcuts and words[-1] == "+":  # which its circle shows
            words.pop()
        return " → ".join(words)

    @property
    def weights(self) -> str:
        return f"{sum(kernel.variable.shape.num_elements() for kernel in self.kernels):,} weights"


def draw_network(model: tf.keras.Model, file: str | Path, title: str = "") -> None:
    """Draw a network as SVG: one box for each layer with a kernel and what follows it.

    Boxes have the bits of weights / inputs, the output shape and the number of weights. The picture needs no other
    file, and has colors for light and dark pages.

    Args:
        model: A functional model.
        file: Path of the picture, which ends in ".svg".
        title: Title; by default the name of the model.

    Raises:
        BnnError: The suffix is not ".svg", or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from bnn_keras import build_model, resolve
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_network(build_model(resolve("lenet5").experiment), Path(folder, "net.svg"))
        ...     "25,000 weights" in Path(folder, "net.svg").read_text()
        True
    """
    require_svg(file)
    svg = _Drawing(model, title or model.name).svg
    ElementTree.indent(svg, " ")
    text = ElementTree.tostring(svg, encoding="unicode")
    with replacing(Path(file)) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def require_svg(file: str | Path) -> None:
    """Check that the suffix of a picture is ".svg".

    Raises:
        BnnError: It is another one.
    """
    if Path(file).suffix.lower() != ".svg":
        raise BnnError(f"cannot draw the network as {str(file)!r}: expected the suffix .svg; name it such as net.svg")


def _shape(shape: Any) -> str:
    return "×".join("any" if size is None else str(size) for size in shape[1:])


def _words(layer: tf.keras.layers.Layer) -> str:
    """Return what a layer without kernel computes."""
    for kind, words in _POOLS:
        if isinstance(layer, kind):
            return f"{words} {'×'.join(map(str, layer.pool_size))}"
    for kind, words in _WORDS:
        if isinstance(layer, kind):
            return words
    if _is_sum(layer):
        return "+"
    function = getattr(layer, "function", None)  # of a `RealActivation`
    function = getattr(getattr(layer, "activation", None), "__name__", function)
    name = function if isinstance(function, str) else getattr(layer, "symbol", type(layer).__name__)
    return printable({"relu": "ReLU"}.get(name, name))


def _is_sum(layer: tf.keras.layers.Layer) -> bool:
    return isinstance(layer, tf.keras.layers.Add) or getattr(layer, "symbol", None) in _SUMS


def _kernel_words(kernel: Kernel) -> str:
    layer, shape = kernel.layer, kernel.variable.shape
    if len(shape) != 4:
        return f"dense, {shape[0]:,} → {shape[-1]:,}"
    stride = f", stride {layer.strides[0]}" if max(layer.strides) > 1 else ""
    return f"{shape[0]}×{shape[1]} convolution, {shape[2]:,} → {layer.output_shape[-1]:,}{stride}"


def _blocks(model: tf.keras.Model) -> list[_Block]:
    """Group the calls of a model's layers into blocks, each behind its inputs."""
    nodes = nodes_of(model)
    parents = parents_of(nodes)
    consumed = [parent for received in parents.values() for parent in received]
    by_layer: dict[int, list[Kernel]] = {}
    for kernel in kernels(model):
        by_layer.setdefault(id(kernel.layer), []).append(kernel)
    blocks = [_Block([], [], [])]
    block_of: dict[Node, _Block] = {}
    for node in nodes:
        sources = [block_of[parent] for parent in parents[node]]
        if len(node.flat_input_ids) > len(sources):
            sources.append(blocks[0])
        # Blocks that this call can continue: those that end in a call whose output only this one receives.
        open_ = [block_of[parent] for parent in parents[node] if consumed.count(parent) == 1]
        own = by_layer.get(id(node.layer), [])
        block = _continued(node, sources, open_, own)
        if block is None:
            block = _Block([], own, list(dict.fromkeys(sources)))
            blocks.append(block)
        else:
            block.shortcuts += [source for source in sources if source is not block]
        block.nodes.append(node)
        block_of[node] = block
    return blocks


def _continued(node: Node, sources: list[_Block], open_: list[_Block], own: list[Kernel]) -> _Block | None:
    """Return the block that a call of a layer belongs to; None if it begins one."""
    if _is_sum(node.layer):
        # A sum belongs to the longest of its branches; projections of shortcuts have 1×1 kernels.
        layers = [block for block in open_ if block.kernels and block not in block.shortcuts]
        return max(layers, key=_number_of_taps, default=None)
    if len(sources) == 1 and open_ and not own:
        block = sources[0]
        return block if not block.kernels or node.output_shapes == node.input_shapes else None
    return None


def _number_of_taps(block: _Block) -> int:
    """Return height times width of a block's kernel."""
    return int(block.kernels[0].variable.shape[:-2].num_elements())


def _place(blocks: Sequence[_Block]) -> None:
    """Set ranks and columns. The path through the first inputs is in column 0."""
    ordered = _sorted(blocks)
    end: dict[_Block, int] = {}
    for block in ordered:
        # A sum is below its box, so that the blocks beside the box can be its inputs.
        block.rank = max([0, *(other.rank + 1 for other in block.inputs), *(other.rank for other in block.shortcuts)])
        for other in (*block.inputs, *block.shortcuts):
            end[other] = max(end.get(other, 0), block.rank)
    main = [ordered[-1]]
    while main[-1].inputs:
        main.append(main[-1].inputs[0])
    free: list[int] = []  # for each column beside the main one, the rank from which it is free
    for block in (block for block in ordered if block not in main):
        before = [other for other in block.inputs if other.column and end[other] == block.rank]
        top = max((other.rank for other in block.inputs), default=0)
        usable = [column for column, rank in enumerate(free, 1) if rank <= top]
        block.column = before[0].column if before else (usable or [len(free) + 1])[0]
        free += [0] * (block.column - len(free))
        free[block.column - 1] = end.get(block, block.rank)


def _sorted(blocks: Sequence[_Block]) -> list[_Block]:
    """Return the blocks in an order in which each is behind its inputs and shortcuts."""
    done: dict[_Block, None] = {}
    stack = list(reversed(blocks))
    while stack:
        missing = [other for other in (*stack[-1].inputs, *stack[-1].shortcuts) if other not in done]
        if missing:
            stack += missing
        else:
            done[stack.pop()] = None
    return list(done)


class _Drawing:
    """The SVG of a model, with the coordinates of its blocks."""

    def __init__(self, model: tf.keras.Model, title: str):
        self.blocks = _blocks(model)
        _place(self.blocks)
        facts = footer(count(model))
        used = {kernel.bits for block in self.blocks for kernel in block.kernels}
        legend = [(kind, bits, words) for bits, (kind, words) in _KINDS.items() if bits in used]
        self.input_shape = _shape(model.input_shape)
        lines = [len(block.operations) + (len(block.weights) if block.kernels else 20) + 4 for block in self.blocks]
        self.width = max(_MIN_WIDTH, _CHARACTER * max(lines) + 24)
        self._set_tops(_HEAD + _LEGEND_ROW * len(legend) + 18)
        self.lanes: dict[int, list[list[tuple[float, float]]]] = {}
        routes = [(*edge, self._lane(*edge)) for edge in self._edges()]
        self.pitch = self.width + 44 + _LANE * max(map(len, self.lanes.values()), default=0)
        columns = 1 + max(block.column for block in self.blocks)
        right = _MARGIN + (columns - 1) * self.pitch + self.width
        right += _LANE * len(self.lanes.get(columns - 1, [])) + _MARGIN
        width = max(right, 2 * _MARGIN + _CHARACTER * len(facts))

        size = (f"{width:.0f}", f"{self.bottom:.0f}")
        attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {size[0]} {size[1]}", "role": "img"}
        self.svg = ElementTree.Element("svg", attributes | dict(zip(("width", "height"), size, strict=True)))
        ElementTree.SubElement(self.svg, "title").text = printable(title)
        ElementTree.SubElement(self.svg, "desc").text = facts
        ElementTree.SubElement(self.svg, "style").text = _STYLE
        self._add("rect", "page", width="100%", height="100%", rx=8)
        self._text("head", _MARGIN, 34, printable(title))
        self._text("note", _MARGIN, 56, facts)
        for row, (kind, bits, words) in enumerate(legend):
            y = _HEAD + _LEGEND_ROW * row
            self._add("rect", kind, x=_MARGIN, y=y, width=26, height=14, rx=4)
            self._text("name", _MARGIN + 36, y + 11, bits)
            self._text("", _MARGIN + 80, y + 11, words)
        for source, target, added, lane in routes:
            self._draw_edge(source, target, added, lane)
        for block in self.blocks:
            self._draw_block(block)

    def _set_tops(self, y: float) -> None:
        """Compute the upper edge of each row."""
        self.tops = []
        for rank in range(1 + max(block.rank for block in self.blocks)):
            self.tops.append(y)
            row = [block for block in self.blocks if block.rank == rank]
            y += max(block.height + (_SUM_GAP if block.shortcuts else _GAP) for block in row)
        self.bottom = y

    def _edges(self) -> list[tuple[_Block, _Block, bool]]:
        """Return (source, target, whether it is added behind the target) for all edges, the shortest first."""
        edges = [(other, block, False) for block in self.blocks for other in block.inputs]
        edges += [(other, block, True) for block in self.blocks for other in block.shortcuts]
        return sorted(edges, key=lambda edge: edge[1].rank - edge[0].rank)

    def _lane(self, source: _Block, target: _Block, added: bool) -> int | None:
        """Return the number of the lane beside the source's column that an edge takes; None if it needs none."""
        if source.column > target.column or (source.column < target.column and not added):
            return None
        between = [
            block
            for block in self.blocks
            if block.column == source.column and source.rank < block.rank < target.rank + added
        ]
        if not between:
            return None
        lanes = self.lanes.setdefault(source.column, [])
        top, bottom = self._out(source), self._sum(target) if added else self.tops[target.rank]
        lane = next((lane for lane in lanes if all(bottom < begin or top > end for begin, end in lane)), None)
        if lane is None:
            lane = []
            lanes.append(lane)
        lane.append((top, bottom))
        return next(index for index, other in enumerate(lanes) if other is lane)

    def _left(self, block: _Block) -> float:
        return _MARGIN + block.column * self.pitch

    def _centre(self, block: _Block) -> float:
        return self._left(block) + self.width / 2

    def _bottom(self, block: _Block) -> float:
        return self.tops[block.rank] + block.height

    def _sum(self, block: _Block) -> float:
        """Return the height of the circle below a block."""
        return self._bottom(block) + _RADIUS + 8

    def _out(self, block: _Block) -> float:
        """Return the height at which edges leave the line below a block."""
        return self._sum(block) + _RADIUS + 6 if block.shortcuts else self._bottom(block) + 7

    def _draw_edge(self, source: _Block, target: _Block, added: bool, lane: int | None) -> None:
        x, y = self._centre(source), self._out(source)
        start = self._bottom(source)
        target_x = self._centre(target)
        if added:
            right = source.column >= target.column
            end = f"H {target_x + (_RADIUS + 6 if right else -_RADIUS - 6):g}"
            level, tip = self._sum(target), (target_x + (_RADIUS if right else -_RADIUS), 1 if right else -1, 0)
        else:
            top = self.tops[target.rank]
            end, level, tip = f"H {target_x:g} V {top - 6:g}", top - 10, (target_x, 0, -1)
        path = f"M {x:g} {start:g} V "
        if lane is not None:
            beside = self._left(source) + self.width + 12 + _LANE * lane
            path += f"{y:g} H {beside:g} V {level:g} {end}"
        elif source.column > target.column:
            path += f"{level:g} {end}"
        else:
            path += f"{y:g} {end}"
        self._add("path", "edge", d=path)
        self._tip(*(tip if added else (target_x, 0, -1)), self._sum(target) if added else self.tops[target.rank])

    def _tip(self, x: float, dx: int, dy: int, y: float) -> None:
        """Draw the tip of an arrow that ends in a point and comes from a direction."""
        corners = [(x, y), (x + 7 * dx + 4 * dy, y + 7 * dy + 4 * dx), (x + 7 * dx - 4 * dy, y + 7 * dy - 4 * dx)]
        self._add("polygon", "tip", points=" ".join(f"{a:g},{b:g}" for a, b in corners))

    def _draw_block(self, block: _Block) -> None:
        x, y = self._left(block), self.tops[block.rank]
        bits = block.kernels[-1].bits if block.kernels else ""
        kind = _KINDS[bits][0] if bits else "plain"
        self._add("rect", kind, x=x, y=y, width=self.width, height=block.height, rx=7 if bits else _PILL_HEIGHT / 2)
        shape = _shape(block.nodes[-1].output_shapes) if block.nodes else self.input_shape
        self._text("right", x + self.width - 64, y + (18 if bits else 17), shape)
        if not bits:
            self._text("", x + 12, y + 17, block.operations if block.nodes else "input")
        else:
            self._text("name", x + 12, y + 18, printable(block.nodes[0].layer.name))
            self._text("bits right", x + self.width - 12, y + 18, bits)
            self._text("note", x + 12, y + 35, block.operations)
            self._text("note right", x + self.width - 12, y + 35, block.weights)
        if block.shortcuts:
            centre, level = self._centre(block), self._sum(block)
            self._add("circle", "sum", cx=centre, cy=level, r=_RADIUS)
            self._add("path", "edge", d=f"M {centre - 4:g} {level:g} h 8 M {centre:g} {level - 4:g} v 8")

    def _add(self, kind: str, class_: str, **attributes: Any) -> ElementTree.Element:
        values = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in attributes.items()}
        return ElementTree.SubElement(self.svg, kind, {"class": class_, **values})

    def _text(self, class_: str, x: float, y: float, words: str) -> None:
        self._add("text", class_, x=float(x), y=float(y)).text = words
