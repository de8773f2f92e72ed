"""An audit's outcome as one record: as JSON, and in the terminal. The page is in ``page.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from verinn.audit.findings import (
    ALARMS,
    CLASSES,
    ERROR,
    GROUPINGS,
    NO_WITNESS,
    ROUNDING,
    SOLVED,
    Contradiction,
    Finding,
    Share,
    contradictions,
    counts,
    findings,
    is_alarming,
    shares,
)
from verinn.audit.instance import MANIFEST, TRUTH, Suite
from verinn.audit.runner import Claim, Limits
from verinn.io.files import read_bytes

#: what each class means, in the words of the reports
MEANINGS = {
    "unsound": "`unsat`, though a counterexample exists",
    "false sat": "`sat`, though provably no counterexample exists",
    "false witness": "`sat` with a counterexample that is none: outside the input set, not violating, or not readable",
    "truth refuted": "a counterexample, exactly, too, where the suite says that none exists: the suite is wrong",
    "rounding decides": "exact arithmetic and a float32 execution disagree here; neither answer counts as wrong",
    "no witness": "`sat`, not contradicted, but without a counterexample that could be judged",
    "solved": "right; a `sat` came with a counterexample that stands the replay",
    "not known": "`unsat` where nobody knows the truth",
    "unknown": "the tool gave up",
    "timeout": "no answer in time",
    "error": "crashed, ran out of its memory, or gave no verdict",
    "refused": "not asked: the tool can't take the instance",
}


@dataclass(frozen=True)
class Audit:
    """A tool's claims about a suite, and what they amount to.

    ``suite_name`` as the user wrote it; ``options``: those that name the tool on a command line, for replays.
    ``left``: instances that were asked for and not run.
    """

    suite: Suite
    suite_name: str
    tool: str
    version: str
    options: str
    limits: Limits
    claims: tuple[Claim, ...]
    found: tuple[Finding, ...]
    contradicting: tuple[Contradiction, ...]
    left: int = 0

    @property
    def alarming(self) -> bool:
        return is_alarming(self.found, self.contradicting)

    def of(self, kind: str) -> list[Finding]:
        """The findings of one class."""
        return [finding for finding in self.found if finding.kind == kind]

    def replay(self, finding: Finding) -> str:
        """The command line that shows an instance's truth and asks the tool once more."""
        limit = f"--timeout {finding.claim.timeout:g}"
        return f"verinn audit replay {self.suite_name} {finding.instance.id} {self.options} {limit}"

    @property
    def digest(self) -> str:
        """Names the suite: the beginning of the SHA-256 of its manifest and truth."""
        content = hashlib.sha256()
        for name in (MANIFEST, TRUTH):
            if (self.suite.folder / name).exists():
                content.update(read_bytes(self.suite.folder / name))
        return content.hexdigest()[:12]


def audit(
    suite: Suite,
    suite_name: str,
    tool: tuple[str, str, str],
    limits: Limits,
    rows: Sequence[Claim],
    left: int = 0,
) -> Audit:
    """Judge all claims. ``tool``: name, version, and the options that name it."""
    name, version, options = tool
    found, contradicting = findings(suite, rows), contradictions(suite, rows)
    return Audit(
        suite, suite_name, name, version, options, limits, tuple(rows), tuple(found), tuple(contradicting), left
    )


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit as plain records; findings carry the claim, what is known, and the command that replays it."""
    return {
        "tool": audit.tool,
        "version": audit.version,
        "suite": {"name": audit.suite_name, "instances": len(audit.suite.instances), "digest": audit.digest},
        "limits": asdict(audit.limits),
        "not_run": audit.left,
        "unsound_seen": audit.alarming,
        "counts": counts(audit.found),
        "meanings": MEANINGS,
        "contradictions": [{"relation": asdict(each.relation), "text": each.text} for each in audit.contradicting],
        "shares": {
            name: [{"group": share.group, **share.counts} for share in shares(audit.found, groups)]
            for name, groups in GROUPINGS.items()
        },
        "findings": [
            {
                "class": finding.kind,
                "family": finding.instance.family,
                "label": finding.truth.label if finding.truth else None,
                "known": finding.truth.known if finding.truth else None,
                "claim": asdict(finding.claim),
                "replay": audit.replay(finding),
            }
            for finding in audit.found
        ],
    }


_LOUD = "bold white on red"
_STYLES = {**dict.fromkeys(ALARMS, "bold red"), SOLVED: "green", ERROR: "yellow"}


def show(audit: Audit) -> None:
    """Print the audit: what is unsound first, then what is doubtful, then counts by family and operator."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for kind in ALARMS:
        for finding in audit.of(kind):
            console.print(Text(f"{kind.upper()}: {_line(finding)}", style=_LOUD if kind == ALARMS[0] else "bold red"))
            console.print(Text(f"    {audit.replay(finding)}", style="dim"))
    for contradiction in audit.contradicting:
        console.print(Text(f"CONTRADICTION: {contradiction.text}", style="bold red"))
    for kind in (ROUNDING, NO_WITNESS, ERROR):
        for finding in audit.of(kind):
            console.print(Text(f"{kind}: {_line(finding)}", style="yellow"))
    for name in ("family", "operator", "radius", "margin"):
        console.print(_table(name, shares(audit.found, GROUPINGS[name])))
        console.print()
    console.print(_summary(audit), highlight=False)


def _line(finding: Finding) -> str:
    claim, truth = finding.claim, finding.truth
    parts = [f"{finding.instance.id} ({finding.instance.family}): {claim.verdict} after {claim.seconds:.2f} s"]
    if truth is not None and truth.label is not None:
        parts.append(f"the truth is {truth.label} ({truth.known})")
    parts += [part for part in (claim.detail, claim.reason) if part]
    return "; ".join(parts)


def _table(name: str, parts: Sequence[Share]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column(name, no_wrap=True)
    kinds = [kind for kind in CLASSES if any(kind in part.counts for part in parts)]
    for title in ("instances", *kinds):
        table.add_column(title, justify="right", no_wrap=True)
    for part in parts:
        cells = [Text(str(part.counts.get(kind, "")), style=_STYLES.get(kind, "")) for kind in kinds]
        table.add_row(Text(part.group), str(part.total), *cells)
    return table


def _summary(audit: Audit) -> str:
    number = counts(audit.found)
    told = ", ".join(f"{number[kind]} {kind}" for kind in CLASSES if kind in number)
    parts = [f"{audit.tool} {audit.version}".strip() + f" on {len(audit.found)} instances: {told}"]
    if audit.contradicting:
        parts.append(f"{len(audit.contradicting)} relations between verdicts broken")
    if audit.left:
        parts.append(f"{audit.left} not run")
    parts.append("something unsound was seen" if audit.alarming else "nothing unsound was seen")
    return "; ".join(parts)
