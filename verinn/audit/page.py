"""An audit as one HTML page that needs nothing beside it."""

from __future__ import annotations

import html
import re
from pathlib import Path

from verinn.audit import evidence, plots
from verinn.audit.findings import (
    ALARMS,
    ERROR,
    FALSE_SAT,
    FALSE_WITNESS,
    GROUPINGS,
    REFUTED,
    SOLVED,
    UNGROUPED,
    UNSOUND,
    counts,
    shares,
)
from verinn.audit.report import MEANINGS, Audit
from verinn.audit.runner import REFUSED

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_TITLES = {
    UNSOUND: "Unsound claims",
    FALSE_SAT: "False `sat`",
    FALSE_WITNESS: "False witnesses",
    REFUTED: "Truth refuted",
}
_MOST_GROUPS = 48  # bars in one plot


def render(audit: Audit) -> str:
    """The page's text."""
    from jinja2 import Environment
    from markupsafe import Markup

    def ticked(text: str) -> Markup:
        """Words in backticks as code."""
        return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)))

    surroundings = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    surroundings.filters["ticked"] = ticked
    template = surroundings.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    number = counts(audit.found)
    limit = audit.limits.timeout
    return template.render(
        audit=audit,
        counts=number,
        alarms=_alarms(audit),
        limit="as the suite says" if limit is None else f"{limit:g} s",
        colours=plots.COLOURS,
        meanings=MEANINGS,
        titles={kind: ticked(_TITLES.get(kind, kind.capitalize())) for kind in MEANINGS},
        evidence=evidence.lines,
        plots=_plots(audit),
        errors=_errors(audit),
    )


def _alarms(audit: Audit) -> str:
    number = counts(audit.found)
    told = [f"{number[kind]} {_SHORT[kind]}" for kind in ALARMS if kind in number]
    if audit.contradicting:
        told.append(f"{len(audit.contradicting)} contradictions")
    return ", ".join(told)


_SHORT = {
    UNSOUND: "`unsat` with a counterexample known",
    FALSE_SAT: "`sat` where none exists",
    FALSE_WITNESS: "false witnesses",
    REFUTED: "truths refuted",
}


def _plots(audit: Audit) -> list[str]:
    drawn = []
    for name in GROUPINGS:
        parts = [part for part in shares(audit.found, GROUPINGS[name]) if part.group != UNGROUPED]
        for start in range(0, len(parts), _MOST_GROUPS):
            title = f"by {name}" if start == 0 else f"by {name}, continued"
            if len(parts) > 1:
                drawn.append(plots.bars(parts[start : start + _MOST_GROUPS], title))
    return [*drawn, plots.times(audit.found)] if audit.of(SOLVED) else drawn


def _errors(audit: Audit) -> list[tuple[str, list[str]]]:
    """(reason, ids), the most frequent first."""
    groups: dict[str, list[str]] = {}
    for finding in [*audit.of(ERROR), *audit.of(REFUSED)]:
        reason = finding.claim.reason or "no reason given"
        groups.setdefault(reason[:160], []).append(finding.instance.id)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
