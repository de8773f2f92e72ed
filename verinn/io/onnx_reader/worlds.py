"""Tensors whose size depends on the inputs: each size is a world of its own, read apart, until they meet again.

A slice that starts at a place which depends on the inputs may be cut short at the end of its axis. In
each world its size is assumed, and everything made from it has a shape. Where all worlds make a real
tensor of one shape, it is one value again: a choice between them by 0/1 values that tell the worlds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from verinn.errors import Unsupported
from verinn.io.onnx_reader.builder import BOOL, FLOATS, Builder, Choice, Fork, Ref, Value
from verinn.io.onnx_reader.compare import both
from verinn.io.onnx_reader.select import blend, size_flag

# More worlds than this aren't followed.
MAX_WORLDS = 8

World = Mapping[Choice, int]
Run = Callable[[Sequence[Value | None]], Sequence[Value | None]]


@dataclass(frozen=True, eq=False)
class Forked:
    """One value for each world; a world that leaves a choice open stands for all of its sizes."""

    entries: tuple[tuple[World, Value | None], ...]

    def within(self, world: World) -> Value | None:
        """The value in a world that decides every choice of the entries."""
        for assumed, value in self.entries:
            if all(world[choice] == size for choice, size in assumed.items()):
                return value
        raise AssertionError("a world without a value")


Many = Value | Forked


def worlds_of(values: Sequence[Many | None]) -> Iterator[World]:
    """Every combination of the choices that these values depend on."""
    choices = {
        choice for value in values if isinstance(value, Forked) for world, _ in value.entries for choice in world
    }
    order = sorted(choices, key=lambda choice: (choice.name, choice.index, choice.offset, choice.total))
    for sizes in product(*[choice.sizes for choice in order]):
        yield dict(zip(order, sizes, strict=True))


def in_worlds(builder: Builder, values: Sequence[Many | None], run: Run) -> list[tuple[World, Sequence[Value | None]]]:
    """Run an importer in every world; one that comes to a choice not made yet is run for each of its sizes."""
    agenda = list(worlds_of(values))
    found: list[tuple[World, Sequence[Value | None]]] = []
    while agenda:
        world = agenda.pop(0)
        if len(agenda) + len(found) >= MAX_WORLDS:
            raise Unsupported("depends on too many sizes that depend on the input")
        builder.world = dict(world)
        try:
            given = [value.within(world) if isinstance(value, Forked) else value for value in values]
            found.append((world, run(given)))
        except Fork as fork:
            agenda.extend({**world, fork.choice: size} for size in fork.choice.sizes)
        finally:
            builder.world = {}
    return found


def met(builder: Builder, entries: Sequence[tuple[World, Value | None]]) -> Many | None:
    """One value where the worlds agree or where all are real tensors of one shape, else one for each world."""
    values = [value for _, value in entries]
    first = values[-1]
    if len(values) == 1 or first is None or all(_same(value, first) for value in values):
        return first
    if any(value is None for value in values):
        return Forked(tuple(entries))
    shapes = {value.shape for value in values if value is not None}
    if len(shapes) > 1 or 0 in first.shape or first.dtype not in FLOATS:
        return Forked(tuple(entries))
    result: Value = first
    for world, value in entries[:-1]:
        if value is not None and not _same(value, first):
            result = blend(builder, _flag(builder, world), value, result)
    return result


def _same(x: Value | None, y: Value) -> bool:
    if isinstance(x, Ref) or isinstance(y, Ref) or x is None:
        return x == y
    alike = x.dtype == y.dtype and x.shape == y.shape and x.const.error is None and y.const.error is None
    return alike and bool(np.array_equal(x.const.value, y.const.value))


def _flag(builder: Builder, world: World) -> Value:
    """1 in this world, else 0: shape (1,)."""
    flag: Value | None = None
    for choice, size in world.items():
        one = builder.retype(size_flag(builder, choice, size), BOOL)
        flag = one if flag is None else both(builder, flag, one)
    assert flag is not None
    return flag
