"""Domains: the subproblems of a search, kept as batches of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from verinn.bounds.interval import Interval


class Batch(Protocol):
    """Subproblems of any kind of search, as the store and the loop see them."""

    @property
    def share(self) -> Tensor:
        """float64 (D,): how much of the whole search each stands for."""

    @property
    def worst(self) -> Tensor:
        """float64 (D,): the least promising lower bound seen."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Self: ...

    def select(self, index: Tensor) -> Self: ...

    @staticmethod
    def joined(parts: Sequence[Any]) -> Any:
        """Batches of this kind one after the other."""


@dataclass(frozen=True, eq=False)
class Domains:
    """D subproblems: a box of inputs each, splits made, what is still open and what is known there.

    ``lower``/``upper`` float64 (D, n). ``splits`` int64 (D, K): ReLU phases chosen, coded 2·neuron + phase
    (phase 0: z ≤ 0, 1: z ≥ 0; neurons numbered over all ReLU steps), −1 where there is
    none. ``rows`` (D, K, n), ``rows_c`` (D, K): what each split was last found to say of the inputs
    (rows·x + rows_c ≤ 0; zeros and −1 where nothing). ``case`` int64 (D,): which case of the spec.
    ``open`` bool (D, J): conjunctions not refuted yet.
    ``known``: intervals of the inputs of nonlinear steps, by value name, (D, *shape) each, in the
    search's dtype; they hold wherever the box and the splits do.
    ``share`` float64 (D,): how much of the whole search each stands for, halved by each split.
    ``worst`` float64 (D,): the least promising lower bound seen, for ordering.
    """

    lower: Tensor
    upper: Tensor
    splits: Tensor
    rows: Tensor
    rows_c: Tensor
    case: Tensor
    open: Tensor
    known: dict[str, Interval]
    share: Tensor
    worst: Tensor

    def __len__(self) -> int:
        return len(self.case)

    def select(self, index: Tensor) -> Domains:
        """The domains of a mask or index, in its order."""
        known = {name: (low[index], high[index]) for name, (low, high) in self.known.items()}
        return Domains(
            self.lower[index],
            self.upper[index],
            self.splits[index],
            self.rows[index],
            self.rows_c[index],
            self.case[index],
            self.open[index],
            known,
            self.share[index],
            self.worst[index],
        )

    def part(self, start: int, stop: int) -> Domains:
        return self.select(torch.arange(start, min(stop, len(self)), device=self.case.device))

    @staticmethod
    def joined(parts: Sequence[Domains]) -> Domains:
        return join(parts)


def join(parts: Sequence[Domains]) -> Domains:
    """Batches one after the other; lists of splits are padded to the same length."""
    if len(parts) == 1:
        return parts[0]
    known = {
        name: tuple(torch.cat([part.known[name][side] for part in parts]) for side in (0, 1)) for name in parts[0].known
    }
    most = max(part.splits.shape[1] for part in parts)
    return Domains(
        torch.cat([part.lower for part in parts]),
        torch.cat([part.upper for part in parts]),
        torch.cat([pad(part.splits, (0, most - part.splits.shape[1]), value=-1) for part in parts]),
        torch.cat([pad(part.rows, (0, 0, 0, most - part.rows.shape[1])) for part in parts]),
        torch.cat([pad(part.rows_c, (0, most - part.rows_c.shape[1]), value=-1.0) for part in parts]),
        torch.cat([part.case for part in parts]),
        torch.cat([part.open for part in parts]),
        known,  # type: ignore[arg-type]
        torch.cat([part.share for part in parts]),
        torch.cat([part.worst for part in parts]),
    )


def moved(batch: Any, device: torch.device) -> Any:
    """A batch of domains with all its tensors on ``device``."""

    def there(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, dict):
            return {key: there(one) for key, one in value.items()}
        return tuple(there(one) for one in value) if isinstance(value, tuple) else value

    return replace(batch, **{field.name: there(getattr(batch, field.name)) for field in fields(batch)})


class Store:
    """Open domains, last in first out: memory stays small, and a branch is finished before the next.

    ``room``: bytes that they may take on a GPU; what is above that, the oldest first, waits in the host's memory.
    """

    def __init__(self, room: float = math.inf) -> None:
        self._parts: list[Batch] = []
        self._count = 0
        self._room = room
        self._device: torch.device | None = None  # where domains are worked on
        self._spilled = 0  # parts at the bottom that wait in the host's memory

    def __len__(self) -> int:
        return self._count

    def push(self, domains: Batch) -> None:
        if len(domains):
            self._device = domains.worst.device
            self._parts.append(domains)
            self._count += len(domains)
            self._spill()

    def _spill(self) -> None:
        if self._device is None or self._device.type == "cpu" or math.isinf(self._room):
            return
        held = [_bytes(part) for part in self._parts[self._spilled :]]
        while len(held) > 1 and sum(held) > self._room:
            self._parts[self._spilled] = moved(self._parts[self._spilled], torch.device("cpu"))
            self._spilled += 1
            held.pop(0)

    def _fetched(self) -> Batch:
        """The part on top, where domains are worked on."""
        part = self._parts.pop()
        if len(self._parts) >= self._spilled:
            return part
        self._spilled = len(self._parts)
        assert self._device is not None
        return moved(part, self._device)  # type: ignore[no-any-return]

    def pop(self, most: int) -> Batch:
        """Up to ``most`` domains."""
        taken: list[Batch] = []
        room = most
        while self._parts and room:
            part = self._fetched()
            if len(part) > room:
                self._parts.append(part.part(0, len(part) - room))
                part = part.part(len(part) - room, len(part))
            taken.append(part)
            room -= len(part)
        result: Batch = taken[0].joined(taken)
        self._count -= len(result)
        return result

    def take_worst(self, most: int) -> Batch:
        """Up to ``most`` domains, those with the least promising bounds. The store must not be empty."""
        parts = self._parts
        if self._spilled:  # all of them may be too much for the GPU
            host = torch.device("cpu")
            parts = [part if i < self._spilled else moved(part, host) for i, part in enumerate(parts)]
        whole: Batch = parts[0].joined(parts)
        order = whole.worst.sort(stable=True).indices
        taken, rest = whole.select(order[:most]), whole.select(order[most:].sort().values)
        device, spilled = self._device, self._spilled
        self._parts, self._count, self._spilled = [], 0, 0
        self.push(rest)
        if spilled:
            assert device is not None
            self._spilled, self._device = len(self._parts), device
            taken = moved(taken, device)
        return taken

    def bytes(self) -> int:
        """About how much memory the open domains take: as much each as those on top."""
        if not self._parts:
            return 0
        top = self._parts[-1]
        return self._count * _bytes(top) // max(1, len(top))

    def sample(self, most: int) -> Batch:
        """Some open domains: those that would be taken next. The store must not be empty."""
        part = self._parts[-1].part(0, most)
        if len(self._parts) > self._spilled:
            return part
        assert self._device is not None
        return moved(part, self._device)  # type: ignore[no-any-return]

    def share(self) -> float:
        """How much of the whole search is still open, by the splits made so far."""
        return sum(float(part.share.sum()) for part in self._parts)

    def worst(self) -> float:
        """The least promising bound among the open domains."""
        return min((float(part.worst.min()) for part in self._parts), default=float("inf"))


def _bytes(batch: Batch) -> int:
    """How much memory a batch takes."""
    held: list[Tensor] = []
    for value in vars(batch).values():
        ends = [end for pair in value.values() for end in pair] if isinstance(value, dict) else [value]
        held.extend(end for end in ends if isinstance(end, Tensor))
    return sum(end.numel() * end.element_size() for end in held)
