"""One call of Z3 that can't outlast its time: its own limit, interrupts from a watching thread, then desertion.

Z3 looks at its clock between steps, and a step of rational arithmetic can be long; an interrupt is looked at
in the same places. So the call runs in a thread of its own: when neither helps, it is left behind, the answer
is `unknown`, and the solver is not used again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

#: seconds that Z3 gets to notice its limit, then to notice an interrupt
GRACE, DESERT = 0.5, 3.0
#: seconds between looks at whether the run is over
BEAT = 0.05


class Gone(Exception):
    """The call did not come back: its solver must not be used again."""


class Interrupted(Exception):
    """The call was interrupted: whatever it returned is not believed."""


def guarded(call: Callable[[], Any], interrupt: Callable[[], None], seconds: float, expired: Callable[[], bool]) -> Any:
    """The call's result. Its exceptions are raised here.

    ``seconds``: after these, and as soon as ``expired()``, ``interrupt`` is called until the call returns.
    Raises Interrupted where it was, and Gone where the call does not return.
    """
    done = threading.Event()
    result: list[Any] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, daemon=True, name="z3")
    began = time.monotonic()
    thread.start()
    asked: float | None = None
    while not done.wait(BEAT if asked is None else 0.02):
        now = time.monotonic()
        if asked is None and (now - began > seconds + GRACE or expired()):
            asked = now
        if asked is not None:
            if now - asked > DESERT:
                raise Gone("Z3 did not stop when it was asked to")
            interrupt()
    if raised:
        raise raised[0]
    if asked is not None:
        raise Interrupted("Z3 was interrupted")
    return result[0]
