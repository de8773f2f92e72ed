"""What the loop asks of a search, whatever its domains are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, Self

from verinn.ops.program import Program
from verinn.search.explore import Explored
from verinn.search.spec import Spec
from verinn.search.store import Batch

#: calls a function of a task, given by its name, in another process: (function, *given) → its future result
Assistant = Callable[..., Future[Any]]


class Work(Protocol):
    """A search's task: where it starts, and one step of it on a batch of its domains."""

    @property
    def spec(self) -> Spec: ...

    @property
    def referee(self) -> Program:
        """The network in float64."""

    @property
    def due(self) -> float:
        """How many domains to explore before it pays to call ``renewed``."""

    @property
    def herd(self) -> int:
        """How many domains to call it with."""

    def renewed(self, part: Any, explored: int, assistant: Assistant | None) -> tuple[Self, Any] | None:
        """Some domains with more known of them together, and the task to go on with after ``explored`` domains.

        None: nothing violates in any of them.
        """

    def delayed(self, explored: int) -> Self:
        """The task, not due again for a while."""

    def root(self) -> Batch: ...

    def explore(self, domains: Any) -> Explored: ...
