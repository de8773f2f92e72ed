"""``verinn audit replay``: one instance of a suite, its truth both ways, and what a verifier says of it."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from verinn.audit import evidence
from verinn.audit.findings import ALARMS, classify
from verinn.audit.instance import Instance, Suite, Truth, load_suite
from verinn.audit.report import MEANINGS
from verinn.audit.rounded import settled
from verinn.audit.runner import Claim, claim_of, run_one
from verinn.audit.trial import environment
from verinn.audit.witness import ROUNDED, VALID, Judgement, ask
from verinn.errors import InputError
from verinn.face.audit_run import add_limits, limits_of
from verinn.face.audit_tool import add_tool, tool_of
from verinn.face.recheck import replayed
from verinn.io.instances import parse_models
from verinn.io.vnnlib import read_query
from verinn.ir.evaluate import holds
from verinn.ir.query import Kind, Query

_MOST = 8  # values of a variable that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", metavar="SUITE", help="its folder")
    parser.add_argument("id", metavar="ID", help="of the instance")
    add_tool(parser)
    add_limits(parser)
    parser.add_argument("--answer", metavar="FILE", help="judge this answer instead of running a tool")


def run(args: argparse.Namespace, _: bool) -> int:
    """Exit code 0; 1 when the tool's claim, or the answer, is unsound. Raises InputError for bad input."""
    suite = load_suite(args.suite)
    instance = next((item for item in suite.instances if item.id == args.id), None)
    if instance is None:
        raise InputError(f"holds no instance `{args.id}`", file=args.suite, hint="its manifest.json lists them")
    truth = suite.truths.get(instance.id)
    for name, value in _about(suite, instance, truth):
        print(f"{name:24} {value}")
    if args.answer is not None:
        return _judged(suite, instance, truth, args.answer)
    if not any((args.tool, args.command, args.standard, args.scripts)):
        return 0
    tool, limits = tool_of(args, None), limits_of(args)
    trial = run_one(suite, instance, tool, limits, environment(args.threads, args.device == "cpu"))
    trial = replace(trial, judgement=settled(suite, instance, trial.judgement))
    claim = claim_of(instance, tool, limits, trial)
    print(f"{'tool':24} {tool.name} {tool.version}".rstrip())
    return _told(claim, truth, trial.judgement)


def _about(suite: Suite, instance: Instance, truth: Truth | None) -> list[tuple[str, str]]:
    """What is recorded of an instance, and the recorded point run through ONNX Runtime now."""
    told = [
        ("instance", f"{instance.id} ({instance.family}, {instance.shape})"),
        ("model", str(suite.folder / instance.onnx) if not instance.onnx.startswith("[") else instance.onnx),
        ("property", str(suite.folder / instance.vnnlib)),
    ]
    if truth is None:
        return [*told, ("truth", "not in this suite")]
    return [*told, *evidence.lines(truth), *(_replayed(suite, instance, truth) if truth.witness else [])]


def _replayed(suite: Suite, instance: Instance, truth: Truth) -> list[tuple[str, str]]:
    """The recorded point in ONNX Runtime: the outputs, and which part of the property it fulfils."""
    query = read_query(suite.folder / instance.vnnlib)
    values = replayed(query, _models(suite, instance), _recorded(query, truth))
    told = [
        (f"{variable.name}, replayed now", _row(values[variable.name]))
        for variable in query.variables
        if variable.kind is Kind.OUTPUT
    ]
    inside = holds(query, values, assuming=(Kind.OUTPUT, Kind.HIDDEN))
    told.append(("in the input set", "yes" if inside else "no"))
    told.append(("fulfils all assertions", "yes: a counterexample" if holds(query, values) else "no"))
    return told


def _models(suite: Suite, instance: Instance) -> str | dict[str, str]:
    models = parse_models(instance.onnx)
    if isinstance(models, str):
        return str(suite.folder / models)
    return {name: str(suite.folder / path) for name, path in models.items()}


def _recorded(query: Query, truth: Truth) -> dict[str, np.ndarray]:
    inputs = {}
    for variable in query.variables:
        if variable.kind is Kind.INPUT:
            values = truth.witness.get(variable.name, ())
            if len(values) != variable.size:
                raise InputError(f"the truth of {truth.id} lacks values of {variable.name}", hint="rebuild the suite")
            inputs[variable.name] = np.array([float.fromhex(value) for value in values]).reshape(variable.shape)
    return inputs


def _row(values: np.ndarray | list[float]) -> str:
    flat = [f"{float(value):.9g}" for value in np.asarray(values).reshape(-1)[:_MOST]]
    rest = int(np.size(values)) - _MOST
    return ", ".join(flat) + (f", … ({rest} more)" if rest > 0 else "")


def _judged(suite: Suite, instance: Instance, truth: Truth | None, answer: str) -> int:
    """Judge an answer kept in a file: its first word is the verdict."""
    try:
        text = Path(answer).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"can't be read ({error.strerror})", file=answer) from None
    words = text.split(None, 1) or [""]
    verdict = words[0].lower()
    judgement: Judgement | None = None
    if verdict == "sat":
        models = _models(suite, instance)
        argument = models if isinstance(models, str) else repr(list(models.items()))
        with tempfile.TemporaryDirectory() as folder:
            judgement = ask(argument, str(suite.folder / instance.vnnlib), text, Path(folder))
            judgement = settled(suite, instance, judgement)
    kind, detail = (judgement.kind, judgement.detail) if judgement else ("", "")
    claim = Claim(instance.id, "", "", 0.0, verdict, 0.0, 0.0, 0.0, kind, detail)
    return _told(claim, truth, judgement)


def _told(claim: Claim, truth: Truth | None, judgement: Judgement | None) -> int:
    """Print a claim and its class."""
    told = [claim.verdict, *(part for part in (claim.detail, claim.reason) if part)]
    print(f"{'claim':24} {'; '.join(told)}")
    if judgement is not None:
        print(f"{'its counterexample':24} {judgement.kind}")
        if judgement.values is not None and judgement.kind not in (VALID, ROUNDED):
            for name, values in judgement.values.items():
                print(f"{f'{name} as replayed':24} {_row(list(values))}")
    kind = classify(claim, truth)
    print(f"{'class':24} {kind}: {MEANINGS[kind].replace('`', '')}")
    return 1 if kind in ALARMS else 0
