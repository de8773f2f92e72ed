"""The page's plots, as SVG that stands in the page itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from verinn.audit.findings import CLASSES, SOLVED, Finding, Share

#: a colour for each class; red and purple are for what is wrong
COLOURS = {
    "unsound": "#c1121f",
    "false sat": "#7b2cbf",
    "false witness": "#e07a9b",
    "truth refuted": "#3c096c",
    "rounding decides": "#8d99ae",
    "no witness": "#b5d99c",
    "solved": "#3a7d44",
    "not known": "#a3c9f1",
    "unknown": "#d9d9d9",
    "timeout": "#b0b0b0",
    "error": "#f4a259",
    "refused": "#f0e6d2",
}
_BAR = 0.27  # inches a bar


def bars(parts: Sequence[Share], title: str) -> str:
    """A stacked bar for each group: how many instances came out how."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.0, 0.95 + _BAR * len(parts)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(parts))
    left = [0] * len(parts)
    for kind in CLASSES:
        sizes = [part.counts.get(kind, 0) for part in parts]
        if not any(sizes):
            continue
        axes.barh(places, sizes, left=left, color=COLOURS[kind], label=kind, height=0.78)
        for place, size, start in zip(places, sizes, left, strict=True):
            if size >= 0.03 * max(part.total for part in parts):
                dark = kind in ("unsound", "false sat", "truth refuted", "solved")
                colour = "white" if dark else "#222222"
                axes.text(start + size / 2, place, str(size), ha="center", va="center", fontsize=7.5, color=colour)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    axes.set_yticks(list(places), [part.group for part in parts], fontsize=8)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("instances", fontsize=8)
    axes.set_title(title, fontsize=9.5, loc="left", fontweight="bold")
    _tidy(axes)
    return _svg(figure, title)


def times(found: Sequence[Finding]) -> str:
    """Instances solved within a time, on a logarithmic scale of seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for verdict, colour in (("sat", "#1d6fa5"), ("unsat", COLOURS[SOLVED])):
        seconds = sorted(f.claim.seconds for f in found if f.kind == SOLVED and f.claim.verdict == verdict)
        if seconds:
            axes.step(seconds, range(1, len(seconds) + 1), where="post", color=colour, label=f"{verdict} solved")
    axes.set_xscale("log")
    axes.set_xlabel("seconds", fontsize=8)
    axes.set_ylabel("instances", fontsize=8)
    axes.set_title("solved within a time", fontsize=9.5, loc="left", fontweight="bold")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    _tidy(axes)
    return _svg(figure, "times")


def _tidy(axes: Any) -> None:
    axes.tick_params(labelsize=8, length=2)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _svg(figure: Any, name: str) -> str:
    """The figure's SVG element, the same for the same figure, without prologue; its ids are its own in a page."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "verinn", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    key = "".join(letter for letter in name if letter.isalnum())
    for before in (' id="', "url(#", 'href="#'):
        text = text.replace(before, f"{before}{key}-")
    return text
