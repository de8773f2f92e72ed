"""What is known of an instance, in words and decimals: for the page and for a replay."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from verinn.audit.instance import Truth

_MOST = 6  # values of a variable that are shown


def decimals(numbers: Sequence[str], most: int = _MOST) -> str:
    """Numbers written exactly (hexadecimal floats, ``p/q``, ``p/q..p/q``) as decimals; the rest is counted."""
    shown = [_decimal(number) for number in numbers[:most]]
    rest = len(numbers) - most
    return ", ".join(shown) + (f", … ({rest} more)" if rest > 0 else "")


def _decimal(number: str) -> str:
    if ".." in number:
        low, high = number.split("..")
        return f"{_decimal(low)} to {_decimal(high)}"
    if "x" in number.lower():
        return f"{float.fromhex(number):.9g}"
    value = Fraction(number)
    text = f"{float(value):.12g}"
    return text if Fraction(text) == value else f"{text}…"


def lines(truth: Truth) -> list[tuple[str, str]]:
    """(what, value) pairs: how the truth is known, and the recorded point with its outputs both ways."""
    label = truth.label or "not known"
    told = [("truth", f"{label} ({truth.known})")]
    if truth.runtime_label is not None and truth.runtime_label != truth.label:
        told.append(("truth in float32", f"{truth.runtime_label}, as ONNX Runtime computes it"))
    if truth.signed_margin is not None:
        told.append(("margin", decimals([truth.signed_margin])))
    if truth.hidden is not None:
        told.append(("attacks", "every recorded attack missed it" if truth.hidden else "an attack finds it"))
    for name, values in truth.witness.items():
        what = "counterexample" if truth.label == "sat" else "nearest to one"
        told.append((f"{name}, {what}", decimals(values)))
    for name, values in truth.exact.items():
        told.append((f"{name} exactly", decimals(values)))
    for name, values in truth.runtime.items():
        told.append((f"{name} by ONNX Runtime", decimals(values)))
    return told
