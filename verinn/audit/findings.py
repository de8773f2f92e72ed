"""What claims amount to against the truth: one class for each, what contradicts, and shares of groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from verinn.audit.instance import Instance, Relation, Suite, Truth
from verinn.audit.runner import REFUSED, Claim
from verinn.audit.witness import FALSE, ROUNDED, VALID

UNSOUND = "unsound"  # `unsat`, though a counterexample exists
FALSE_SAT = "false sat"  # `sat`, though provably no counterexample exists
FALSE_WITNESS = "false witness"  # `sat`, rightly or not known, but what is shown is no counterexample
REFUTED = "truth refuted"  # a counterexample in exact arithmetic where the suite says that none exists
ROUNDING = "rounding decides"  # exact arithmetic and ONNX Runtime disagree: neither answer counts as wrong
NO_WITNESS = "no witness"  # `sat`, rightly or not known, and no counterexample that can be judged
SOLVED = "solved"  # right, and a `sat` with a counterexample that stands the replay
OPEN = "not known"  # `unsat` where nobody knows the truth
UNKNOWN = "unknown"
TIMEOUT = "timeout"
ERROR = "error"  # crashed, killed at the memory limit, or no verdict
#: by severity; ``refused`` claims are those that a tool could not be asked for
CLASSES = (
    UNSOUND, FALSE_SAT, FALSE_WITNESS, REFUTED, ROUNDING, NO_WITNESS, SOLVED, OPEN, UNKNOWN, TIMEOUT, ERROR, REFUSED,
)  # fmt: skip
#: what makes an audit fail
ALARMS = (UNSOUND, FALSE_SAT, FALSE_WITNESS, REFUTED)


@dataclass(frozen=True)
class Finding:
    """A claim, what it was made about, and its class."""

    kind: str
    instance: Instance
    claim: Claim
    truth: Truth | None


@dataclass(frozen=True)
class Contradiction:
    """A relation that verdicts break: at least one of them is wrong, whatever the truth is."""

    relation: Relation
    text: str


@dataclass(frozen=True)
class Share:
    """How the instances of a group came out. ``counts``: by class; those that are zero are left out."""

    group: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def classify(claim: Claim, truth: Truth | None) -> str:
    """The class of a claim. Without a truth only the counterexample can be judged."""
    if claim.verdict not in ("sat", "unsat"):
        return {REFUSED: REFUSED, "unknown": UNKNOWN, "timeout": TIMEOUT}.get(claim.verdict, ERROR)
    label = truth.label if truth is not None else None
    disputed = truth is not None and label is not None and _disputed(truth)
    if claim.verdict == "unsat":
        if label == "sat":
            return ROUNDING if disputed else UNSOUND
        return SOLVED if label == "unsat" else OPEN
    if label == "unsat":
        if claim.witness == ROUNDED:
            return ROUNDING
        if claim.witness == VALID:
            return ROUNDING if disputed else REFUTED
        return FALSE_SAT
    if claim.witness == VALID:
        return SOLVED
    if claim.witness in FALSE:
        return ROUNDING if disputed else FALSE_WITNESS
    return NO_WITNESS


def _disputed(truth: Truth) -> bool:
    """Whether the network as ONNX Runtime computes it may have another truth than the exact function."""
    if truth.runtime_label is not None:
        return truth.runtime_label != truth.label
    return not truth.agree


def findings(suite: Suite, rows: Iterable[Claim]) -> list[Finding]:
    """A finding for each claim about an instance of the suite, the most severe first, else in the suite's order."""
    by_id = {claim.id: claim for claim in rows}
    found = [
        Finding(classify(by_id[instance.id], truth), instance, by_id[instance.id], truth)
        for instance in suite.instances
        if instance.id in by_id
        for truth in [suite.truths.get(instance.id)]
    ]
    return sorted(found, key=lambda finding: CLASSES.index(finding.kind))


def contradictions(suite: Suite, rows: Iterable[Claim]) -> list[Contradiction]:
    """The relations that the verdicts break, those left out in which rounding decides a member's truth."""
    verdicts = {claim.id: claim.verdict for claim in rows}
    found = []
    for relation in suite.relations:
        truths = [suite.truths[member] for member in relation.members if member in suite.truths]
        text = None if any(map(_disputed, truths)) else relation.broken(verdicts)
        if text is not None:
            found.append(Contradiction(relation, text))
    return found


def is_alarming(found: Sequence[Finding], contradicting: Sequence[Contradiction]) -> bool:
    """Whether something unsound was seen."""
    return bool(contradicting) or any(finding.kind in ALARMS for finding in found)


Groups = Callable[[Instance], Sequence[str]]
UNGROUPED = "–"


def _radius(instance: Instance) -> list[str]:
    radius = instance.radius
    return [UNGROUPED if radius is None or radius <= 0 else f"2^{math.floor(math.log2(radius))}"]


def _margin(instance: Instance) -> list[str]:
    ulps = instance.margin_ulps
    if ulps is None:
        return [UNGROUPED]
    if ulps == 0:
        return ["tie"]
    if ulps <= 1:
        return ["≤ 1 ulp"]
    return [f"≤ 10^{math.ceil(math.log10(ulps) - 1e-9)} ulp"]


#: how instances are grouped; one may belong to several groups, as with operators
GROUPINGS: Mapping[str, Groups] = {
    "family": lambda instance: [instance.family],
    "shape": lambda instance: [instance.shape],
    "operator": lambda instance: list(dict.fromkeys(instance.operators)),
    "radius": _radius,
    "margin": _margin,
}


def shares(found: Sequence[Finding], groups: Groups) -> list[Share]:
    """The counts of each group, the groups in the order of ``_place``."""
    counters: dict[str, Counter[str]] = {}
    for finding in found:
        for group in groups(finding.instance):
            counters.setdefault(group, Counter())[finding.kind] += 1
    ordered = sorted(counters, key=_place)
    return [
        Share(group, {kind: counters[group][kind] for kind in CLASSES if counters[group][kind]}) for group in ordered
    ]


def _place(group: str) -> tuple[float, str]:
    """Powers from large to small for radii, from small to large for margins, all else by name; ungrouped last."""
    if group == UNGROUPED:
        return math.inf, group
    if group.startswith("2^"):
        return -float(group[2:]), group
    for start, base in (("tie", -2.0), ("≤ 1 ulp", -1.0)):
        if group == start:
            return base, group
    if group.startswith("≤ 10^"):
        return float(group.split("^")[1].split()[0]), group
    return 0.0, group


def counts(found: Sequence[Finding]) -> dict[str, int]:
    """How many claims are of each class."""
    seen = Counter(finding.kind for finding in found)
    return {kind: seen[kind] for kind in CLASSES if seen[kind]}
