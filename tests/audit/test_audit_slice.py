"""verinn on the quick slice of the committed suite: nothing unsound, no false witness, no contradiction."""

import time
from functools import cache
from pathlib import Path

import pytest

from verinn.api import verify
from verinn.audit.findings import ALARMS, classify, contradictions
from verinn.audit.instance import Instance, Suite, load_suite
from verinn.audit.judge import judge
from verinn.audit.mutants.child import blind
from verinn.audit.mutants.patch import Patch
from verinn.audit.runner import REFUSED, Claim
from verinn.errors import InputError
from verinn.io.instances import parse_models
from verinn.io.vnnlib import read_query
from verinn.io.witness import answer_text
from verinn.options import Options

COMMITTED = Path(__file__).resolve().parents[2] / "soundness"
LIMIT = 3.0  # seconds for one instance; what takes longer is a time-out, which is no fault


@cache
def suite() -> Suite:
    return load_suite(COMMITTED)


def quick() -> list[Instance]:
    if not (COMMITTED / "manifest.json").exists():
        return []
    return [instance for instance in suite().instances if instance.quick]


def claimed(instance: Instance, limit: float, attack: bool = True) -> Claim:
    """What verinn says, its counterexample judged as that of any other tool."""
    models = parse_models(instance.onnx)
    several = {"": models} if isinstance(models, str) else models
    paths = {name: str(COMMITTED / path) for name, path in several.items()}
    path = str(COMMITTED / instance.vnnlib)
    began = time.monotonic()
    options = Options(deadline=began + limit, device="cpu", threads=1, attack=attack)
    kind = detail = ""
    try:
        query = read_query(path)
        result = verify(paths.get("", paths), query, options)
        verdict, reason = result.verdict.value, result.reason
        if verdict == "sat":
            argument = paths[""] if "" in paths else repr(list(paths.items()))
            judgement = judge(argument, path, answer_text(query, result))
            kind, detail = judgement.kind, judgement.detail
    except InputError as error:
        verdict, reason = REFUSED, str(error)
    took = time.monotonic() - began
    return Claim(instance.id, "verinn", "", limit, verdict, took, took, 0.0, kind, detail, reason)


_CLAIMS: dict[str, Claim] = {}


@pytest.mark.parametrize("instance", quick(), ids=lambda instance: instance.id)
def test_nothing_unsound_is_said(instance: Instance) -> None:
    claim = _CLAIMS[instance.id] = claimed(instance, LIMIT)
    truth = suite().truths[instance.id]
    assert classify(claim, truth) not in ALARMS, (claim, truth.label, truth.known)
    assert claim.verdict != "error"


def test_verdicts_do_not_contradict_each_other() -> None:
    """With several workers each judges what it has run; without the committed suite nothing is asked."""
    assert not _CLAIMS or contradictions(suite(), list(_CLAIMS.values())) == []


@pytest.mark.slow
@pytest.mark.parametrize("instance", quick(), ids=lambda instance: instance.id)
def test_without_luck_no_proof_of_what_is_false(instance: Instance) -> None:
    """No counterexample is ever confirmed: what has one must stay open."""
    with Patch() as patch:
        blind(patch)
        claim = claimed(instance, 10.0, attack=False)
    truth = suite().truths[instance.id]
    assert classify(claim, truth) not in ALARMS, (claim, truth.label, truth.known)
