"""What the loop asks of a search, whatever its domains are."""

from __future__ import annotations

from typing import Any, Protocol, Self

from verinn.ops.program import Program
from verinn.search.explore import Explored
from verinn.search.spec import Spec
from verinn.search.store import Batch


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

    def renewed(self) -> Self | None:
        """The task with more known of all its domains; None: there is nothing in it that violates."""

    def fit(self, domains: Any) -> Any:
        """Domains with what the task has learned since they were made."""

    def root(self) -> Batch: ...

    def explore(self, domains: Any) -> Explored: ...
