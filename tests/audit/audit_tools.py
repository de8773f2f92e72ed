"""Helpers of the tests of audits."""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def fake(mood: str, result: bool = True) -> str:
    """The command template of a stand-in."""
    return f"{sys.executable} {HERE / 'audit_fake.py'} {mood} {{onnx}} {{vnnlib}}" + (" {result}" if result else "")
