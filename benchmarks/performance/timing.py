"""Times: warmed up, the median of several, on a device that has finished."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What all measurements share. ``patience``: seconds after which a measurement is not repeated again; one
    whose single call would take twice as long is not begun. ``memory``: bytes that the coefficients may take."""

    device: str = "cpu"
    dtypes: tuple[str, ...] = ("float32", "float64")
    batches: tuple[int, ...] = (1, 16, 128, 512)
    repeats: int = 5
    warm_up: int = 1
    patience: float = 2.0
    memory: int = 4 << 30
    search_seconds: float = 10.0
    filter: str = ""

    def wants(self, name: str) -> bool:
        return self.filter.lower() in name.lower()


@dataclass(frozen=True)
class Timing(Generic[T]):
    """Seconds of one call: the median, the quickest, and out of how many; and what the last one returned."""

    median: float
    fastest: float
    repeats: int
    result: T


def measure(work: Callable[[], T], settings: Settings) -> Timing[T]:
    """Call ``work`` some times unmeasured and some times measured; slow work is repeated less often."""
    spent = sum(_once(work, settings.device)[0] for _ in range(settings.warm_up))
    last, result = _once(work, settings.device)
    times = [last]
    while len(times) < settings.repeats and spent + sum(times) + last < settings.patience:
        last, result = _once(work, settings.device)
        times.append(last)
    return Timing(statistics.median(times), min(times), len(times), result)


def _once(work: Callable[[], T], device: str) -> tuple[float, T]:
    _finish(device)
    begun = time.perf_counter()
    result = work()
    _finish(device)
    return time.perf_counter() - begun, result


def _finish(device: str) -> None:
    """Kernels of a GPU run on their own; a clock has to wait for them."""
    if device == "cuda":
        torch.cuda.synchronize()
