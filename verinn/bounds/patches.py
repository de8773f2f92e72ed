"""Coefficients that live on a small window of an image: what rows at neurons of a convolution see.

A neuron depends on a window of the layer below, so its row has few coefficients other than zero. As in
auto_LiRPA (Xu et al., NeurIPS 2020) only the window is held; all windows of one pass have one size, and
where they lie follows from the neuron's place by a stride and an offset. What lies outside the image
refers to nothing: it is zero always. Coefficients are those of the dense pass, up to the order of sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from verinn.ir.graph import Node, Shape
from verinn.ops.base import Elementwise
from verinn.ops.conv import Conv, transposed
from verinn.ops.program import Program, Step

#: windows of more than this part of an image are held as whole images
LARGEST_PART = 0.8


@dataclass(frozen=True)
class Window:
    """The windows of neurons at (y, x) below ``extent``: per axis ``size`` pixels from stride·y + offset on."""

    extent: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    offset: tuple[int, ...] = (0, 0)
    size: tuple[int, ...] = (1, 1)

    def back(self, node: Node) -> Window:
        """What the windows see through a convolution."""
        attrs, kernel = node.attrs, node.params["weight"].shape[2:]
        axes = range(2)
        strides, dilations, pads = attrs["strides"], attrs["dilations"], attrs["pads"]
        return Window(
            self.extent,
            tuple(self.stride[i] * strides[i] for i in axes),
            tuple(self.offset[i] * strides[i] - pads[i] for i in axes),
            tuple((self.size[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 for i in axes),
        )

    def union(self, other: Window) -> Window | None:
        """The least window around both, or None where they don't move together."""
        if (self.extent, self.stride) != (other.extent, other.stride):
            return None
        offset = tuple(map(min, self.offset, other.offset))
        ends = [max(w.offset[i] + w.size[i] for w in (self, other)) for i in range(2)]
        return replace(self, offset=offset, size=tuple(end - start for end, start in zip(ends, offset, strict=True)))

    def margins(self, shape: Shape) -> tuple[int, int, int, int]:
        """How far windows reach beyond an image: left, right, top, bottom (torch's order)."""
        before = [max(0, -start) for start in self.offset]
        after = [
            max(0, self.stride[i] * (self.extent[i] - 1) + self.offset[i] + self.size[i] - shape[2 + i])
            for i in range(2)
        ]
        return before[1], after[1], before[0], after[0]

    def small(self, shape: Shape) -> bool:
        return math.prod(self.size) <= LARGEST_PART * math.prod(shape[2:])


@dataclass(frozen=True, eq=False)
class Patches:
    """Rows over a value of ``shape`` (1, C, H, W): ``a`` (D|1, U, P, kh, kw, C), P rows at each of U places.

    ``at`` (U, 2): the places; row (u, p) has a[:, u, p] on the window there and zero elsewhere.
    """

    a: Tensor
    at: Tensor
    window: Window
    shape: Shape

    @staticmethod
    def pick(index: Tensor, sign: Tensor, shape: Shape, dtype: torch.dtype) -> Patches | None:
        """Rows ``sign`` (R,) times the elements ``index`` (1, R), or None where windows won't do."""
        if not is_image(shape) or len(index) != 1 or sign.dim() != 1:
            return None
        _, channels, height, width = shape
        place = index[0] % (height * width)
        runs, counts = torch.unique_consecutive(place, return_counts=True)
        together = int(counts[0]) if bool((counts == counts[0]).all()) else 1
        if together == 1:
            runs = place
        a = torch.zeros((len(place), channels), dtype=dtype, device=index.device)
        a = a.scatter(1, (index[0] // (height * width)).unsqueeze(1), sign.to(dtype).expand(len(place)).unsqueeze(1))
        at = torch.stack([runs // width, runs % width], 1)
        return Patches(a.reshape(1, len(at), together, 1, 1, channels), at, Window((height, width)), shape)

    @property
    def rows(self) -> tuple[int, int]:
        return self.a.shape[0], self.a.shape[1] * self.a.shape[2]

    def abs(self) -> Patches:
        return replace(self, a=self.a.abs())

    def _corner(self) -> tuple[Tensor, Tensor]:
        """First row and column of each window, in the image."""
        y, x = (self.at[:, i] * self.window.stride[i] + self.window.offset[i] for i in range(2))
        return y, x

    def over(self, v: Tensor) -> Tensor:
        """A map v (D, *shape) as the rows see it: (D, U, 1, kh, kw, C), zero outside the image."""
        if len(self.at) * math.prod(self.window.size) < math.prod(self.shape[2:]):
            return self._gathered(v)
        left, right, top, bottom = self.window.margins(self.shape)
        image = F.pad(v[:, 0], (left, right, top, bottom)).permute(0, 2, 3, 1).contiguous()
        (kh, kw), (y, x) = self.window.size, self._corner()
        windows = image.unfold(1, kh, 1).unfold(2, kw, 1).permute(0, 1, 2, 4, 5, 3)
        return windows[:, y + top, x + left].unsqueeze(2)

    def _gathered(self, v: Tensor) -> Tensor:
        """The same where few places see less than the whole image: pixel by pixel, without a padded copy."""
        (row, column), inside = self._pixels(), self._inside()
        width = self.shape[3]
        index = row.clamp(0, self.shape[2] - 1).unsqueeze(2) * width + column.clamp(0, width - 1).unsqueeze(1)
        seen = v[:, 0].flatten(2)[:, :, index].permute(0, 2, 3, 4, 1).unsqueeze(2)
        outside = ~(inside[0].unsqueeze(2) & inside[1].unsqueeze(1))
        return seen.masked_fill(outside[None, :, None, :, :, None], 0.0) if bool(outside.any()) else seen

    def dot(self, v: Tensor, longest: int) -> Tensor:
        """Σ a·v for a map v (D|1, *shape): float64 (D, R); sums of ``longest`` terms in the working dtype."""
        a, seen = self.a.flatten(3), self.over(v).flatten(2)
        if a.shape[-1] <= longest:
            return _dot(a, seen).flatten(1)
        pieces = zip(a.split(longest, -1), seen.split(longest, -1), strict=True)
        return torch.stack([_dot(*piece) for piece in pieces]).sum(0).flatten(1)

    def back(self, step: Step) -> list[Patches]:
        """Coefficients of the inputs of an affine step that ``passes`` windows."""
        node = step.node
        if isinstance(step.op, Conv):
            return [self._through(node, step.params["weight"], step.shapes[0])]
        if node.op == "slice":
            start, channels = node.attrs["starts"][1], step.shapes[0][1]
            around = (start, channels - start - node.shape[1])
            return [replace(self, a=F.pad(self.a, around), shape=step.shapes[0])]
        if node.op == "sum":
            return [self if sign > 0 else replace(self, a=-self.a) for sign in node.attrs["signs"]]
        if "factor" in step.params:
            return [replace(self, a=self.a * self.over(step.params["factor"].expand(1, *self.shape)))]
        return [self]

    def _through(self, node: Node, weight: Tensor, shape: Shape) -> Patches:
        window = self.window.back(node)
        flat = self.a.flatten(0, 2).permute(0, 3, 1, 2)  # torch's channels_last, which is faster here
        back = transposed(flat, weight, node.attrs, (0, 0), window.size).permute(0, 2, 3, 1).contiguous()
        grown = Patches(back.unflatten(0, self.a.shape[:3]), self.at, window, shape)
        return grown._cut() if any(grown.window.margins(shape)) else grown

    def _cut(self) -> Patches:
        """Zero outside the image."""
        inside = self._inside()
        outside = ~(inside[0].unsqueeze(2) & inside[1].unsqueeze(1))
        return replace(self, a=self.a.masked_fill(outside[None, :, None, :, :, None], 0.0))

    def _pixels(self) -> list[Tensor]:
        """Rows (U, kh) and columns (U, kw) of the windows' pixels, in the image."""
        sizes = zip(self._corner(), self.window.size, strict=True)
        return [start.unsqueeze(1) + torch.arange(size, device=start.device) for start, size in sizes]

    def _inside(self) -> list[Tensor]:
        """Which of the windows' rows (U, kh) and columns (U, kw) lie in the image."""
        return [(pixel >= 0) & (pixel < full) for pixel, full in zip(self._pixels(), self.shape[2:], strict=True)]

    def joined(self, other: Patches) -> tuple[Patches, Patches] | None:
        """Both over one window, or None where their rows differ or no small window has room for both."""
        window = self.window.union(other.window)
        if self.at is not other.at or window is None or not window.small(self.shape):
            return None
        return self._within(window), other._within(window)

    def _within(self, window: Window) -> Patches:
        before = [mine - its for mine, its in zip(self.window.offset, window.offset, strict=True)]
        after = [window.size[i] - self.window.size[i] - before[i] for i in range(2)]
        return replace(self, a=F.pad(self.a, (0, 0, before[1], after[1], before[0], after[0])), window=window)

    def dense(self) -> Tensor:
        """The same rows (D|1, R, *shape)."""
        batch, places, each, kh, kw, channels = self.a.shape
        height, width = self.shape[2:]
        left, right, top, bottom = self.window.margins(self.shape)
        size = (batch, places, each, channels, height + top + bottom, width + left + right)
        image = torch.zeros(size, dtype=self.a.dtype, device=self.a.device)
        y, x = self._corner()
        which = torch.arange(places, device=y.device)
        image.unfold(4, kh, 1).unfold(5, kw, 1)[:, which, :, :, y + top, x + left] = self.a.permute(1, 0, 2, 5, 3, 4)
        inner = image[..., top : top + height, left : left + width]
        return inner.reshape(batch, places * each, *self.shape)


def _dot(a: Tensor, seen: Tensor) -> Tensor:
    """a (D|1, U, P, K) times seen (D|1, U, K): float64 (D, U, P)."""
    if len(a) == 1:
        return (a[0] @ seen.permute(1, 2, 0)).permute(2, 0, 1).double()
    return (a @ seen.unsqueeze(-1)).squeeze(-1).double()


Coefficients = Tensor | Patches


def by_sign(a: Coefficients) -> tuple[Coefficients, Coefficients]:
    """Positive and negative parts."""
    values = a.a if isinstance(a, Patches) else a
    positive = values.clamp(min=0)
    negative = values - positive
    return (replace(a, a=positive), replace(a, a=negative)) if isinstance(a, Patches) else (positive, negative)


def add(one: Coefficients, two: Coefficients) -> Coefficients:
    """The sum of two of one kind; of windows, the same windows."""
    if isinstance(one, Patches) and isinstance(two, Patches):
        return replace(one, a=one.a + two.a)
    assert isinstance(one, Tensor) and isinstance(two, Tensor)
    return one + two


def bend(positive: Coefficients, negative: Coefficients, below: Tensor, above: Tensor) -> Coefficients:
    """positive · below + negative · above, for slopes (D, *shape)."""
    if isinstance(positive, Patches) and isinstance(negative, Patches):
        bent = torch.addcmul(positive.a * positive.over(below), negative.a, negative.over(above))
        return replace(positive, a=bent)
    assert isinstance(positive, Tensor) and isinstance(negative, Tensor)
    return torch.addcmul(positive * below.unsqueeze(1), negative, above.unsqueeze(1))


def is_image(shape: Shape) -> bool:
    return len(shape) == 4 and shape[0] == 1


def sights(step: Step, window: Window) -> list[Window | None]:
    """The windows that rows seen through ``window`` at a step's value have at its inputs; None: no windows."""
    node = step.node
    if isinstance(step.op, Conv):
        return [window.back(node) if is_image(step.shapes[0]) else None]
    if node.op == "slice":
        return [window if _of_channels(node, step.shapes[0]) else None]
    if isinstance(step.op, Elementwise) or node.op in ("shift", "scale", "divide", "sum"):
        return [window if shape == node.shape else None for shape in step.shapes]
    return [None] * len(step.shapes)


def _of_channels(node: Node, shape: Shape) -> bool:
    """Whether a slice takes some neighbouring channels of an image, whole."""
    plain = is_image(shape) and all(step == 1 for step in node.attrs["steps"])
    return plain and shape[2:] == node.shape[2:] and shape[0] == node.shape[0]


def passes(step: Step) -> bool:
    """Whether windows at a step's value are windows at all its inputs."""
    return is_image(step.node.shape) and None not in sights(step, Window(tuple(step.node.shape[2:])))


def footprint(program: Program, name: str) -> int:
    """How many coefficients a row that starts at one element of a value has at most, on its way back."""
    shape = program.shapes[name]
    pending: dict[str, Window | None] = {name: Window(tuple(shape[2:])) if is_image(shape) else None}
    most = 1
    for step in reversed(program.steps):
        if step.node.name not in pending:
            continue
        here = pending.pop(step.node.name)
        most = max(most, _held(here, step.node.shape))
        seen = [None] * len(step.shapes) if here is None else sights(step, here)
        for value, window, size in zip(step.node.inputs, seen, step.shapes, strict=True):
            if value in pending and window is not None:
                other = pending[value]
                window = None if other is None else window.union(other)
            pending[value] = window if window is not None and window.small(size) else None
    return max([most, *(_held(window, program.shapes[value]) for value, window in pending.items())])


def _held(window: Window | None, shape: Shape) -> int:
    return math.prod(shape) if window is None else math.prod(window.size) * shape[1]


def places(mask: Tensor, shape: Shape, most: int) -> Iterator[Tensor]:
    """The elements of a mask (n,) in blocks of about ``most``: indices (1, U, P), each line of one place.

    Places with about as many elements share a block; a line that is short repeats its first element.
    """
    channels, area = shape[1], math.prod(shape[2:])
    table = mask.reshape(channels, area).T
    counts, order = table.sum(1).sort(descending=True, stable=True)
    chosen = table[order].to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    sizes = counts.tolist()
    start, end = 0, sum(size > 0 for size in sizes)
    while start < end:
        each = sizes[start]
        stop = start + 1
        while stop < end and (stop + 1 - start) * each <= most and 2 * sizes[stop] >= each:
            stop += 1
        part = slice(start, stop)
        real = torch.arange(each, device=mask.device) < counts[part].unsqueeze(1)
        channel = torch.where(real, chosen[part, :each], chosen[part, :1])
        index = (channel * area + order[part].unsqueeze(1)).unsqueeze(0)
        yield from index.split(min(each, most), dim=2)
        start = stop
