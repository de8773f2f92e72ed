"""What a run amounts to: one of five words, whatever the tool calls them, and the text with the witness."""

from __future__ import annotations

import re
import signal

from verinn.audit.process import Ended
from verinn.audit.tools import Tool

DECIDED = ("sat", "unsat")
VERDICTS = (*DECIDED, "unknown", "timeout", "error")
#: the words in use for each verdict, in lower case
_WORDS = {
    "sat": ("sat", "violated", "unsafe", "falsified", "refuted", "unsafe-pgd", "unsafe-bab"),
    "unsat": ("unsat", "holds", "verified", "proved", "proven", "safe", "safe-incomplete"),
    "unknown": ("unknown", "undecided", "undetermined", "inconclusive", "early_stop", "invalid_counterexample"),
    "timeout": ("timeout", "timed-out", "timed_out", "timed out", "time out", "resources_out"),
    "error": ("error", "crash", "crashed"),
}
MEANING = {word: verdict for verdict, words in _WORDS.items() for word in words}
_ANY = "|".join(sorted(map(re.escape, MEANING), key=len, reverse=True))
#: a line that is a verdict, perhaps named as one; a line that merely begins with such a word is talk
_LINE = re.compile(rf"(?im)^\s*(?:(?:final\s+)?(?:result|verdict|status|answer)\s*[:=]\s*)?({_ANY})\s*(?:$|[,(:])")


def outcome(tool: Tool, ended: Ended, result: str) -> tuple[str, str, str]:
    """(verdict, reason, text that may hold a witness). ``result``: what the tool wrote to its results file."""
    if ended.code is None and ended.limit == "memory":
        return "error", "killed: it held more memory than allowed", ""
    if ended.code is None:
        return "timeout", "killed at the limit", ""
    last = last_line(ended.err)
    if ended.code < 0:
        return "error", f"killed by {signal_name(-ended.code)}: {last}".rstrip(": "), ""
    text = result if tool.writes else ended.out
    verdict = _find(tool, text, ended)
    if verdict is None:
        return "error", last or f"exit code {ended.code} and no verdict", ""
    if tool.exits is not None and ended.code not in tool.exits:
        return "error", f"exit code {ended.code} after {verdict}: {last}".rstrip(": "), ""
    return verdict, last if verdict in ("unknown", "error") else "", text


def _find(tool: Tool, text: str, ended: Ended) -> str | None:
    if tool.pattern is not None:
        return _last(tool.pattern, text if tool.writes else f"{text}\n{ended.err}")
    if tool.writes:  # the verdict is the first word of the file: what follows is the witness
        words = re.split(r"[\s,(]", text.lstrip(), maxsplit=1)
        return MEANING.get(words[0].lower())
    return _last(_LINE, text) or _last(_LINE, ended.err)


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    """The meaning of the last match: logs talk before they conclude."""
    found = None
    for match in pattern.finditer(text):
        word = match.group(1) if pattern.groups else match.group(0)
        found = MEANING.get((word or "").strip().lower(), found)
    return found


def signal_name(number: int) -> str:
    """How a signal is called."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def last_line(errors: str, most: int = 200) -> str:
    """The last line that says something, cut to ``most`` characters."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:most] if lines else ""
