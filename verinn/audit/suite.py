"""A suite written to a folder: models, properties, manifest, truth, and what it takes to make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from verinn.audit import attacks
from verinn.audit.case import Case, digest, files, finished
from verinn.audit.instance import Relation, save_suite
from verinn.audit.metamorphic import Link
from verinn.audit.query import text
from verinn.audit.recipes import cases
from verinn.audit.sketch import packed
from verinn.errors import InputError
from verinn.io.files import read_bytes, write_whole

RECORDED, ATTACKS = "recorded", "attacks.json"
Records = tuple[Mapping[str, Any], ...]
Progress = Callable[[str], None]


def write_suite(
    seed: int, out: Path, size: str, recorded: Path | None = None, attack: bool = True, progress: Progress | None = None
) -> None:
    """Write a suite; the same seed and size give the same files, but for what attacks report (``truth.json``).

    ``recorded``: a folder with what another machine may compute otherwise: weights of trained networks (see
    ``trained.trained``), and what attacks found (``attacks.json``, by ``case.digest``). What it lacks is trained,
    which takes minutes each, and attacked, seconds each; the suite's own ``recorded/`` holds all of it.
    ``attack``: whether planted counterexamples are attacked at all. InputError for a folder that isn't empty.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError("isn't empty", file=str(out), hint="name a new folder")
    known = _records(recorded)
    made, links = _made(seed, size, recorded, out / RECORDED, known, progress)
    if attack:
        made = [_attacked(case, seed, known, progress) for case in made]
        records = {digest(case): list(case.attacks) for case in made if case.attacks}
        (out / RECORDED).mkdir(parents=True, exist_ok=True)
        write_whole(out / RECORDED / ATTACKS, json.dumps(records, indent=1, sort_keys=True) + "\n")
    names = _names(made, seed)
    for folder in ("onnx", "vnnlib", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    pairs = []
    sums: dict[str, str] = {}
    for case, name in sorted(zip(made, names, strict=True), key=lambda pair: pair[1]):
        _, models = files(case, name)
        for path, model in models.items():
            (out / path).write_bytes(packed(model))
            sums[path] = _sum(out / path)
        write_whole(out / "vnnlib" / f"{name}.vnnlib", text(case.query))
        sums[f"vnnlib/{name}.vnnlib"] = _sum(out / "vnnlib" / f"{name}.vnnlib")
        pairs.append(finished(case, name, seed))
    ids = {case.key: name for case, name in zip(made, names, strict=True)}
    relations = [Relation(link.name, link.kind, tuple(ids[key] for key in link.keys)) for link in links]
    save_suite(out, [pair[0] for pair in pairs], _shuffled(relations), [pair[1] for pair in pairs])
    sums["instances.csv"], sums["manifest.json"] = _sum(out / "instances.csv"), _sum(out / "manifest.json")
    build = {"seed": seed, "size": size, "trained": [asdict(recipe) for recipe in _recipes(size)], "sha256": sums}
    write_whole(out / "build.json", json.dumps(build, indent=1, sort_keys=True) + "\n")


def _recipes(size: str) -> Sequence[Any]:
    from verinn.audit import training

    return {"quick": (), "committed": training.COMMITTED, "full": training.FULL}[size]


def _records(folder: Path | None) -> Mapping[str, Records]:
    """What attacks found, by the digest of the case."""
    if folder is None or not (folder / ATTACKS).exists():
        return {}
    try:
        read = json.loads(read_bytes(folder / ATTACKS))
        return {str(name): tuple(dict(record) for record in records) for name, records in read.items()}
    except (ValueError, AttributeError, TypeError):
        raise InputError(
            "holds no records of attacks", file=str(folder / ATTACKS), hint="name another folder"
        ) from None


def _made(
    seed: int, size: str, recorded: Path | None, keep: Path, known: Mapping[str, Records], progress: Progress | None
) -> tuple[list[Case], Sequence[Link]]:
    made, links = cases(seed)
    if size == "quick":
        chosen = [case for case in made if case.quick or case.family == "metamorphic"]
        return [replace(case, quick=True) for case in chosen], links
    from verinn.audit import trained

    for index, recipe in enumerate(_recipes(size)):
        # the committed networks keep their own seeds, since their weights are recorded for them
        own = recipe if size == "committed" else replace(recipe, seed=seed * 1000 + index)
        if progress is not None:
            progress(f"training {own.architecture}")
        network, points = trained.trained(own, recorded)
        trained.record(network, own, keep)
        strong = attacks.SHORT if size == "committed" else attacks.PAPER
        made += trained.cases(network, points, own, strong, known, clean=2)
    return made, links


def _names(made: Sequence[Case], seed: int) -> list[str]:
    """family-number, numbered in a random order, so that a name doesn't tell on which side an instance is."""
    rng = np.random.default_rng([seed, 99])
    names = [""] * len(made)
    for family in dict.fromkeys(case.family for case in made):
        mine = [index for index, case in enumerate(made) if case.family == family]
        for number, index in enumerate(rng.permutation(mine), start=1):
            names[index] = f"{family}-{number:03}"
    return names


def _shuffled(relations: Sequence[Relation]) -> list[Relation]:
    """Named without the truth that their cases' keys tell."""
    return [replace(item, name=f"{item.members[0]}: {item.name.split(': ', 1)[1]}") for item in relations]


def _attacked(case: Case, seed: int, known: Mapping[str, Records], progress: Progress | None) -> Case:
    """The case with what attacks on it found; unchanged where it isn't meant to be hidden or is attacked already."""
    if not case.hide or case.attacks or case.label != "sat":
        return case
    from verinn.audit.hidden import attacked

    name = digest(case)
    if name in known:
        return replace(case, attacks=known[name])
    records: Records = attacked(case, seed)
    if progress is not None:
        progress(f"attacked {case.key}: {[record['found'] for record in records]}")
    return replace(case, attacks=records)


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
