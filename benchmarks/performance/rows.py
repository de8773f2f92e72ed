"""What was measured, on which machine, and the files that both go to."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from verinn.errors import InputError


@dataclass(frozen=True)
class Row:
    """One measurement. ``seconds`` (median) and ``fastest`` of one call; rates are by the median, and 0 where
    they mean nothing. ``note``: why something was left out, or how a search ended."""

    group: str
    case: str
    operation: str
    dtype: str
    device: str
    domains: int
    rows: int = 0
    repeats: int = 0
    seconds: float = 0.0
    fastest: float = 0.0
    bounds_per_second: float = 0.0
    domains_per_second: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Machine:
    """What the figures depend on besides the code."""

    cpu: str
    cores: int
    threads: int
    gpu: str
    torch: str
    python: str
    verinn: str


def machine(device: str) -> Machine:
    import torch

    from verinn import __version__

    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if device == "cuda" else "",
        torch=torch.__version__,
        python=platform.python_version(),
        verinn=__version__,
    )


def _cpu() -> str:
    """The processor's name; Linux has it in a file, elsewhere the architecture must do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


def save(path: str, rows: Sequence[Row], facts: Machine) -> None:
    """As JSON where the name ends so, else as csv with the machine's facts in columns of their own."""
    try:
        with open(path, "w", newline="", encoding="utf-8") as stream:
            if path.endswith(".json"):
                json.dump({"machine": asdict(facts), "rows": [asdict(row) for row in rows]}, stream, indent=1)
                stream.write("\n")
                return
            names = [field.name for part in (Row, Machine) for field in fields(part)]
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([*map(_number, asdict(row).values()), *asdict(facts).values()] for row in rows)
    except OSError as error:
        raise InputError(f"can't be written ({error.strerror})", file=path, hint="choose a writable place") from None


def _number(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
