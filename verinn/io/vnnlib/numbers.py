"""Decimal constants of VNN-LIB files as exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(rb"([-+]?)(\d*)(?:(\.)(\d*))?(?:[eE]([-+]?\d{1,9}))?")
MAX_DIGITS = 4000  # beyond it Python's own conversion from text refuses
_LIMIT = Fraction(2) ** 1024 - Fraction(2) ** 970  # from here on float64 rounds to infinity


class BadNumber(ValueError):
    """The message says what is wrong with the constant."""


def is_number(word: bytes) -> bool:
    """Whether a word looks like a constant rather than a name."""
    return word[:1].isdigit() or (word[:1] in b"+-." and word[1:2].isdigit()) or word[:2] in (b"-.", b"+.")


def exact(word: bytes) -> tuple[Fraction, bool, str]:
    """The exact value of a decimal, whether it was written as an integer, and a warning or "".

    Raises BadNumber for what is not a decimal, or too large for float64.
    """
    match = _NUMBER.fullmatch(word)
    if match is None or not (match[2] or match[4]):
        raise BadNumber("is not a decimal number")
    sign, whole, point, part, power = match.groups()
    part = part or b""
    if len(word) > MAX_DIGITS:
        raise BadNumber(f"has more than {MAX_DIGITS} digits")
    exponent = int(power or 0) - len(part)
    if int(power or 0) > MAX_DIGITS or int(power or 0) < -MAX_DIGITS:
        raise BadNumber("has an exponent that is out of range")
    digits = int(whole + part)
    value = Fraction(digits * 10**exponent) if exponent >= 0 else Fraction(digits, 10**-exponent)
    if value >= _LIMIT:
        raise BadNumber("is too large for float64")
    note = ""
    if power is not None:
        note = "exponent"
    elif sign == b"+" or not whole or (point and not part):
        note = "form"
    return (-value if sign == b"-" else value), point is None and power is None, note
