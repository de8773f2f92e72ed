"""The rows of a comparison: kept in a csv as they come, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verinn.audit.log import Log
from verinn.audit.verdict import DECIDED, VERDICTS

Key = tuple[str, str]  # onnx, vnnlib


@dataclass(frozen=True)
class Row:
    """One run of one tool. ``witness``: "ok", "none", "bad: why", or empty where the verdict is not `sat`."""

    set: str
    onnx: str
    vnnlib: str
    timeout: float
    expected: str
    tool: str
    version: str
    round: int
    verdict: str
    seconds: float
    cpu_seconds: float
    memory_mb: float
    witness: str = ""
    reason: str = ""

    @property
    def key(self) -> Key:
        return self.onnx, self.vnnlib

    @property
    def run(self) -> tuple[str, str, str, int, float]:
        """What is not run again once its row is there."""
        return self.onnx, self.vnnlib, self.tool, self.round, self.timeout


def log(path: str | None) -> Log[Row]:
    """The results file of a comparison."""
    return Log(path, Row, "a comparison")


def best(rows: Sequence[Row]) -> Row:
    """Of one tool's rounds on one instance the one that counts: the quickest of the best verdict."""
    return min(rows, key=lambda row: (row.verdict not in DECIDED, VERDICTS.index(row.verdict), row.seconds))


@dataclass(frozen=True)
class Contest:
    """All that was run on one instance. ``cells``: by tool, the round that counts."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def cells(self) -> dict[str, Row]:
        return {tool: best([row for row in self.rows if row.tool == tool]) for tool in tools_of(self.rows)}

    @property
    def truth(self) -> str:
        """`sat` once a witness was replayed, whatever was expected; else what is expected, or empty."""
        return "sat" if any(row.witness == "ok" for row in self.rows) else self.first.expected

    def is_wrong(self, row: Row) -> bool:
        return row.verdict in DECIDED and self.truth in DECIDED and row.verdict != self.truth

    def is_bad(self, row: Row) -> bool:
        """A `sat` with a witness that did not stand the replay."""
        return row.verdict == "sat" and row.witness.startswith("bad")

    def is_solved(self, row: Row) -> bool:
        return row.verdict in DECIDED and not self.is_wrong(row) and not self.is_bad(row)

    @property
    def wrong(self) -> set[str]:
        """The tools that were wrong in any round."""
        return {row.tool for row in self.rows if self.is_wrong(row)}

    @property
    def fastest(self) -> str:
        """The tool that solved it first, or empty."""
        solved = [row for row in self.cells.values() if self.is_solved(row) and row.tool not in self.wrong]
        return min(solved, key=lambda row: row.seconds).tool if solved else ""

    @property
    def alarms(self) -> list[str]:
        """What has to be looked at: tools that contradict each other, the truth, or themselves."""
        said = {word: sorted({row.tool for row in self.rows if row.verdict == word}) for word in DECIDED}
        where = f"{self.first.onnx} {self.first.vnnlib}"
        found = []
        if said["sat"] and said["unsat"]:
            found.append(
                f"CONTRADICTION: {where}: sat by {', '.join(said['sat'])}; unsat by {', '.join(said['unsat'])}"
            )
        if self.first.expected == "unsat" and self.truth == "sat":
            found.append(f"EXPECTATION REFUTED: {where}: a replayed witness shows sat, the list expects unsat")
        for tool in sorted(self.wrong):
            found.append(f"WRONG: {where}: {tool}, the truth is {self.truth}")
        for row in self.rows:
            if self.is_bad(row):
                found.append(f"BAD WITNESS: {where}: {row.tool}: {row.witness.removeprefix('bad: ')}")
        return list(dict.fromkeys(found))


def tools_of(rows: Sequence[Row]) -> list[str]:
    """The tools, in alphabetical order: that of the rows changes from turn to turn."""
    return sorted({row.tool for row in rows})


def contests(rows: Sequence[Row]) -> list[Contest]:
    """The rows by instance, in order of appearance."""
    keys = dict.fromkeys(row.key for row in rows)
    return [Contest(tuple(row for row in rows if row.key == key)) for key in keys]


@dataclass(frozen=True)
class Summary:
    """One tool on one set. ``solved`` are answers that are neither wrong nor shown by a bad witness;
    ``seconds`` are those of all instances, solved or not; ``memory`` is the greatest, in MiB."""

    set: str
    tool: str
    instances: int
    solved: int
    sat: int
    unsat: int
    unknown: int
    timeout: int
    error: int
    wrong: int
    bad: int
    fastest: int
    seconds: float
    memory: float


def summaries(found: Sequence[Contest]) -> list[Summary]:
    """One summary for each set and tool, sets in order of appearance, and for all when there are several."""
    sets = list(dict.fromkeys(contest.first.set for contest in found))
    parts = [(name, [contest for contest in found if contest.first.set == name]) for name in sets]
    if len(parts) > 1:
        parts.append(("all", list(found)))
    return [
        _summary(name, tool, part)
        for name, part in parts
        for tool in tools_of([row for contest in part for row in contest.rows])
    ]


def _summary(name: str, tool: str, part: Sequence[Contest]) -> Summary:
    pairs = [(contest, contest.cells[tool]) for contest in part if tool in contest.cells]
    count = {word: sum(row.verdict == word for _, row in pairs) for word in VERDICTS}
    return Summary(
        set=name,
        tool=tool,
        instances=len(pairs),
        solved=sum(contest.is_solved(row) and tool not in contest.wrong for contest, row in pairs),
        **count,
        wrong=sum(tool in contest.wrong for contest, _ in pairs),
        bad=sum(contest.is_bad(row) for contest, row in pairs),
        fastest=sum(contest.fastest == tool for contest, _ in pairs),
        seconds=sum(row.seconds for _, row in pairs),
        memory=max((row.memory_mb for _, row in pairs), default=0.0),
    )
