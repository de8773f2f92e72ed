"""What the soundness suite knows of an instance, in two records: what may be told, and the truth.

A suite is a folder: ``instances.csv`` (the competition's form, all that a tool under audit sees), ``onnx/``,
``vnnlib/``, ``manifest.json`` (an ``Instance`` each and the ``Relation``s between them: no truth), and apart
from it ``truth/truth.json`` (a ``Truth`` each) with ``truth/truth.csv`` for ``verinn bench --truth``.
Numbers that must be exact are text: rationals as ``p/q``, float32 values in C's hexadecimal form.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from verinn.errors import InputError
from verinn.io.files import read_bytes, write_whole

INSTANCES = "instances.csv"
MANIFEST = "manifest.json"
TRUTH = "truth/truth.json"
TRUTH_TABLE = "truth/truth.csv"


@dataclass(frozen=True)
class Instance:
    """What may be told of an instance. Nothing here says, by itself, whether it is ``sat`` or ``unsat``.

    ``onnx`` is a path relative to the suite, or the text of a list ``[('f', 'onnx/a.onnx'), …]`` for several
    networks, as in instances.csv. ``radius``: of the hidden spike in the L1 norm, relative to half of the
    box's width (None: no spike; of a trained one the box's, relative to the domain). ``margin``: the distance
    between the output's true extremum and the threshold, without its sign, also in units in the last place
    (float32) of the threshold. ``shape``: of the property (``box``, ``union``, ``or-first``, …).
    """

    id: str
    onnx: str
    vnnlib: str
    timeout: float
    family: str
    operators: tuple[str, ...] = ()
    radius: float | None = None
    margin: float | None = None
    margin_ulps: float | None = None
    shape: str = "box"
    inputs: int = 0
    outputs: int = 0
    parameters: int = 0
    version: str = "1.0"
    seed: int = 0
    recipe: str = ""
    quick: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """As in ``verinn.io.instances``."""
        return self.onnx, self.vnnlib


@dataclass(frozen=True)
class Truth:
    """The answer to an instance, and how it is known.

    ``label``: ``sat`` or ``unsat`` for the network as an exact function of real numbers; None for a *clean*
    instance, whose truth nobody knows. ``runtime_label``: the same for the network as ONNX Runtime computes
    it in float32, None where that isn't known. ``agree``: whether exact arithmetic and ONNX Runtime say the same of
    the recorded point (for ``sat`` the witness, for ``unsat`` the most dangerous known point, if there is one).
    ``witness``: by variable, float32 values in hexadecimal; ``exact``: by variable, the outputs there as ``p/q``, or
    ``p/q..p/q`` where a smooth function leaves an interval; ``runtime``: ONNX Runtime's, in hexadecimal.
    ``hidden``: whether every recorded attack missed the counterexample (None: no attack was run).
    """

    id: str
    label: str | None
    known: str
    agree: bool = True
    runtime_label: str | None = None
    signed_margin: str | None = None
    witness: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exact: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    runtime: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hidden: bool | None = None
    attacks: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Relation:
    """A relation between the truths of instances, which holds whatever they are.

    ``same``: all members have one truth. ``implies``: if the first member is ``unsat``, so is the second (its
    set of counterexamples is a subset). ``split``: the first is ``sat`` if and only if one of the others is.
    """

    name: str
    kind: str
    members: tuple[str, ...]

    def broken(self, verdicts: Mapping[str, str]) -> str | None:
        """How verdicts by id contradict the relation; None where they don't. Only sat and unsat count."""
        told = {member: verdicts.get(member) for member in self.members}
        sat = [member for member, verdict in told.items() if verdict == "sat"]
        unsat = [member for member, verdict in told.items() if verdict == "unsat"]
        first, rest = self.members[0], self.members[1:]
        if self.kind == "same":
            wrong = bool(sat and unsat)
        elif self.kind == "implies":
            wrong = first in unsat and any(member in sat for member in rest)
        elif self.kind == "split":
            wrong = (first in unsat and any(member in sat for member in rest)) or (
                first in sat and all(member in unsat for member in rest)
            )
        else:
            raise InputError(f"`{self.kind}` is no relation", place=self.name, hint="write same, implies or split")
        if not wrong:
            return None
        return f"{self.name} ({self.kind}): " + ", ".join(f"{member} {told[member]}" for member in self.members)


@dataclass(frozen=True)
class Suite:
    """A suite as read from its folder. ``truths`` is empty when the folder holds no truth."""

    folder: Path
    instances: tuple[Instance, ...]
    relations: tuple[Relation, ...]
    truths: Mapping[str, Truth]


Record = TypeVar("Record", Instance, Truth, Relation)


def load_suite(folder: str | Path) -> Suite:
    """Read manifest and truth; InputError names the file and what is wrong with it."""
    root = Path(folder)
    manifest = _json(root / MANIFEST)
    instances = tuple(_record(Instance, item, root / MANIFEST) for item in manifest.get("instances", []))
    relations = tuple(_record(Relation, item, root / MANIFEST) for item in manifest.get("relations", []))
    truths: dict[str, Truth] = {}
    if (root / TRUTH).exists():
        for item in _json(root / TRUTH).get("truths", []):
            truth = _record(Truth, item, root / TRUTH)
            truths[truth.id] = truth
    return Suite(root, instances, relations, truths)


def save_suite(
    folder: str | Path, instances: Iterable[Instance], relations: Iterable[Relation], truths: Iterable[Truth]
) -> None:
    """Write instances.csv, the manifest and the truth (models and properties are written by their makers)."""
    root = Path(folder)
    (root / TRUTH).parent.mkdir(parents=True, exist_ok=True)
    rows = list(instances)
    known = {truth.id: truth for truth in truths}
    write_whole(root / INSTANCES, _csv([[row.onnx, row.vnnlib, f"{row.timeout:g}"] for row in rows]))
    manifest = {"instances": [_plain(row) for row in rows], "relations": [_plain(item) for item in relations]}
    write_whole(root / MANIFEST, _text(manifest))
    write_whole(root / TRUTH, _text({"truths": [_plain(known[row.id]) for row in rows if row.id in known]}))
    labels = [[row.onnx, row.vnnlib, known[row.id].label or ""] for row in rows if row.id in known]
    write_whole(root / TRUTH_TABLE, _csv([["onnx", "vnnlib", "expected"], *labels]))


def _plain(record: Instance | Truth | Relation) -> dict[str, Any]:
    """The fields that differ from their defaults, so that the files stay small."""
    blank = {item.name: item.default for item in fields(record)}
    return {name: value for name, value in asdict(record).items() if value != blank[name] and value not in ({}, ())}


def _record(kind: type[Record], item: Any, file: Path) -> Record:
    names = {part.name for part in fields(kind)}
    if not isinstance(item, dict) or not set(item) <= names:
        raise InputError(f"holds no {kind.__name__}", file=str(file), hint="rebuild the suite")
    try:
        return kind(**{name: _frozen(value) for name, value in item.items()})
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {error}", file=str(file), hint="rebuild the suite") from None


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return value


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(file))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"is no JSON ({error})", file=str(file), hint="rebuild the suite") from None
    if not isinstance(content, dict):
        raise InputError("holds no object", file=str(file), hint="rebuild the suite")
    return content


def _text(content: Mapping[str, Any]) -> str:
    """JSON with one record a line, so that a change shows as a change of lines."""
    parts = []
    for name, records in content.items():
        lines = ",\n".join("  " + json.dumps(record, sort_keys=True, ensure_ascii=False) for record in records)
        parts.append(f"{json.dumps(name)}: [\n{lines}\n]" if records else f"{json.dumps(name)}: []")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _csv(rows: Iterable[Iterable[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
