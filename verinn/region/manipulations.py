"""Manipulations that people mean, as a file tells them: which kinds, with which parameters fixed or in a range.

A file (TOML or JSON) holds a list ``manipulation`` of tables, applied to the image one after the other. Each has a
``kind`` and the kind's parameters: a number is fixed, a pair [low, high] is a range, a coordinate of θ. ``steps``
(a table from parameter to step) puts ranges on a grid.

    [[manipulation]]
    kind = "rotation"
    degrees = [-3, 3]

    [[manipulation]]
    kind = "brightness"
    amount = [-0.1, 0.1]
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from verinn.errors import InputError
from verinn.io.files import read_bytes

#: parameters of each kind, with the value that a missing one has; None: must be given
KINDS: Mapping[str, Mapping[str, float | None]] = {
    "brightness": {"amount": None},
    "contrast": {"factor": None, "about": 0.5},
    "rotation": {"degrees": None},
    "translation": {"x": 0.0, "y": 0.0},
    "scaling": {"factor": None},
    "affine": {"degrees": 0.0, "factor": 1.0, "x": 0.0, "y": 0.0},
    "scratch": {"x": None, "y": None, "degrees": 0.0, "length": None, "width": 1.0, "colour": 1.0},
    "patch": {"x": None, "y": None, "width": None, "height": None, "colour": 0.0},
    "blur": {"amount": None, "radius": 1.0},
    "haze": {"amount": None, "colour": 1.0},
}
#: parameters that may not be a range
FIXED = {("contrast", "about"), ("blur", "radius")}
#: where a parameter has to lie
LIMITS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("scaling", "factor"): (0.1, 10.0),
    ("affine", "factor"): (0.1, 10.0),
    ("blur", "amount"): (0.0, 1.0),
    ("blur", "radius"): (1.0, 8.0),
    ("haze", "amount"): (0.0, 1.0),
    ("scratch", "length"): (0.0, 1e4),
    ("scratch", "width"): (0.0, 1e4),
    ("patch", "width"): (0.0, 1e4),
    ("patch", "height"): (0.0, 1e4),
    ("rotation", "degrees"): (-360.0, 360.0),
    ("affine", "degrees"): (-360.0, 360.0),
    ("scratch", "degrees"): (-360.0, 360.0),
}


@dataclass(frozen=True)
class Span:
    """A parameter of θ: its name, its range, and its step where it is on a grid."""

    name: str
    low: Fraction
    high: Fraction
    step: Fraction | None = None


@dataclass(frozen=True)
class Manipulation:
    """One step of the pipeline: fixed parameters, and the places in θ of the others."""

    kind: str
    fixed: Mapping[str, float] = field(default_factory=dict)
    moving: Mapping[str, int] = field(default_factory=dict)

    def values(self, theta: Sequence[float]) -> dict[str, float]:
        """Every parameter's value at θ."""
        return {**self.fixed, **{name: float(theta[at]) for name, at in self.moving.items()}}


@dataclass(frozen=True)
class Family:
    """g(θ; x): manipulations in order, and the spans of θ."""

    steps: tuple[Manipulation, ...]
    spans: tuple[Span, ...]

    @property
    def gridded(self) -> bool:
        """Whether every coordinate of θ is on a grid."""
        return all(span.step is not None for span in self.spans)

    def __str__(self) -> str:
        kinds = ", then ".join(step.kind for step in self.steps)
        spans = ", ".join(f"{span.name} in [{float(span.low):g}, {float(span.high):g}]" for span in self.spans)
        return f"{kinds}: {spans}"


def load_family(path: str | Path) -> Family:
    """The family of a .toml or .json file. InputError with the place of anything that is not as it should be."""
    name = str(path)
    try:
        text = read_bytes(path).decode()
        record = tomllib.loads(text) if name.lower().endswith(".toml") else json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"is no TOML or JSON ({str(error)[:120]})", file=name, hint="end the name in .toml or .json"
        ) from None
    try:
        return family_of(record)
    except InputError as error:
        raise error.in_file(name) from None


def family_from_words(words: Sequence[str]) -> Family:
    """The family of command-line words: KIND:NAME=VALUE,NAME=LOW..HIGH,… one for each manipulation; NAME=LOW..HIGH/STEP
    puts a range on a grid."""
    record = []
    for word in words:
        kind, _, rest = word.partition(":")
        entry: dict[str, Any] = {"kind": kind}
        for part in filter(None, rest.split(",")):
            name, sign, value = part.partition("=")
            low, dots, high = value.partition("..")
            high, slash, step = high.partition("/")
            try:
                entry[name] = [float(low), float(high)] if dots else float(low)
                if slash:
                    entry.setdefault("steps", {})[name] = float(step)
            except ValueError:
                sign = ""
            if not sign:
                raise InputError(
                    f"`{part[:40]}` is not NAME=VALUE, NAME=LOW..HIGH or NAME=LOW..HIGH/STEP",
                    place=f"--manipulate {kind[:40]}",
                )
        record.append(entry)
    return family_of({"manipulation": record})


def family_of(record: Any) -> Family:
    """The family of a parsed file. InputError names the place."""
    if not isinstance(record, dict) or set(record) != {"manipulation"} or not isinstance(record["manipulation"], list):
        raise InputError("holds something else than one list `manipulation`", hint="[[manipulation]] kind = …")
    if not record["manipulation"]:
        raise InputError("holds no manipulation", hint="[[manipulation]] kind = …")
    spans: list[Span] = []
    steps = [_step(entry, number, spans) for number, entry in enumerate(record["manipulation"], 1)]
    if not spans:
        raise InputError("every parameter is fixed, so nothing moves", hint="give a parameter a range [low, high]")
    return Family(tuple(steps), tuple(spans))


def _step(entry: Any, number: int, spans: list[Span]) -> Manipulation:
    place = f"manipulation {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise InputError("has no kind", place=place, hint=f"kinds: {', '.join(KINDS)}")
    kind = entry["kind"]
    if kind not in KINDS:
        raise InputError(f"unknown kind `{kind[:40]}`", place=place, hint=f"kinds: {', '.join(KINDS)}")
    known, place = KINDS[kind], f"manipulation {number} ({kind})"
    grid = entry.get("steps", {})
    unknown = sorted(set(entry) - {"kind", "steps", *known})
    if unknown or not isinstance(grid, dict):
        what = f"unknown parameter `{unknown[0][:40]}`" if unknown else "`steps` is no table"
        raise InputError(what, place=place, hint=f"parameters: {', '.join(known)}, steps")
    fixed: dict[str, float] = {}
    moving: dict[str, int] = {}
    for name, default in known.items():
        value = entry.get(name, default)
        if value is None:
            raise InputError(f"`{name}` is missing", place=place, hint="a number, or a range [low, high]")
        if isinstance(value, list):
            moving[name] = len(spans)
            spans.append(_span(kind, name, value, grid.get(name), place))
        else:
            fixed[name] = float(_number(value, name, place))
            _limited(kind, name, fixed[name], fixed[name], place)
    lost = sorted(set(grid) - set(moving))
    if lost:
        raise InputError(f"`steps` names `{lost[0][:40]}`, which has no range", place=place)
    if kind == "blur" and fixed.get("radius", 1.0) != int(fixed.get("radius", 1.0)):
        raise InputError("`radius` is not a whole number of pixels", place=place)
    return Manipulation(kind, fixed, moving)


def _span(kind: str, name: str, value: list[Any], step: Any, place: str) -> Span:
    if (kind, name) in FIXED:
        raise InputError(f"`{name}` can't be a range", place=place, hint="give a number")
    if len(value) != 2:
        raise InputError(f"`{name}` is no pair [low, high]", place=place)
    low, high = (_number(end, name, place) for end in value)
    if low >= high:
        raise InputError(f"`{name}` has an empty range", place=place, hint="low below high, or one number")
    _limited(kind, name, float(low), float(high), place)
    pace = None if step is None else _number(step, f"steps.{name}", place)
    if pace is not None and pace <= 0:
        raise InputError(f"the step of `{name}` is not above zero", place=place)
    return Span(f"{kind}.{name}", low, high, pace)


def _number(value: Any, name: str, place: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1e6:
        raise InputError(f"`{name}` is no number (of at most a million)", place=place)
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _limited(kind: str, name: str, low: float, high: float, place: str) -> None:
    least, most = LIMITS.get((kind, name), (-1e6, 1e6))
    if low < least or high > most:
        raise InputError(f"`{name}` has to lie in [{least:g}, {most:g}]", place=place)
