"""The machinery of passes: a sweep over a graph in topological order that applies local rules.

A rule looks at one node and, along its edges (never by position), at the nodes before it. It answers
``None`` (nothing to do), a name (the node is the same as that value) or new nodes, the last of which
replaces the node and keeps its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from verinn.ir.check import check_graph
from verinn.ir.graph import Graph, Node, Output, Shape

Change = str | list[Node] | None


class Sweep:
    """What rules may ask: shapes, the maker of a value, and whether a value has a single reader."""

    def __init__(self, graph: Graph, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.changed = False
        self.shapes: dict[str, Shape] = {value.name: value.shape for value in graph.inputs}
        self.makers: dict[str, Node] = {}
        self.alias: dict[str, str] = {}
        self.names = set(graph.shapes())
        self.uses = dict.fromkeys(self.names, 0)
        for node in graph.nodes:
            for name in node.inputs:
                self.uses[name] += 1
        for output in graph.outputs:
            self.uses[output.value] += 2  # an output must stay: it never counts as read once
        self.readers = graph.consumers()

    def maker(self, name: str) -> Node | None:
        """The node that makes a value (None for an input)."""
        return self.makers.get(name)

    def sole(self, name: str, *ops: str) -> Node | None:
        """The maker of a value if it is one of ``ops`` and nothing else reads the value."""
        node = self.makers.get(name)
        return node if node is not None and node.op in ops and self.uses[name] == 1 else None

    def only_reader(self, name: str) -> Node | None:
        """The node of the graph before the sweep that alone reads a value."""
        users = self.readers.get(name, [])
        return users[0] if len(users) == 1 and self.uses.get(name) == 1 else None

    def fresh(self, base: str) -> str:
        """A name not used yet, for a value with one reader."""
        count = 1
        while f"{base}#{count}" in self.names:
            count += 1
        name = f"{base}#{count}"
        self.names.add(name)
        self.uses[name] = 1
        return name

    def add(self, node: Node) -> None:
        """Take in a node, rules applied until none has anything to say."""
        node = replace(node, inputs=tuple(self.alias.get(name, name) for name in node.inputs))
        for rule in self.rules:
            change = rule(node, self)
            if change is None or not _finite(change):
                continue
            self.changed = True
            if isinstance(change, str):
                self.alias[node.name] = change
                self.uses[change] += self.uses[node.name] - 1
            else:
                for part in change:
                    self.add(part)
            return
        self.makers[node.name] = node
        self.shapes[node.name] = node.shape


Rule = Callable[[Node, Sweep], Change]


def _finite(change: str | list[Node]) -> bool:
    """Whether folding constants overflowed nowhere; if it did, the rule is not applied."""
    if isinstance(change, str):
        return True
    consts = [const for node in change for const in node.params.values()]
    arrays = [array for const in consts for array in (const.value, const.error) if array is not None]
    return all(bool(np.all(np.isfinite(array))) for array in arrays)


def sweep(graph: Graph, rules: Sequence[Rule]) -> Graph | None:
    """One sweep; None when no rule applied. The result is checked."""
    state = Sweep(graph, rules)
    for node in graph.nodes:
        state.add(node)
    if not state.changed:
        return None
    outputs = tuple(
        Output(output.name, state.alias.get(output.value, output.value), output.dtype) for output in graph.outputs
    )
    used = {output.value for output in outputs}
    kept = []
    for node in reversed(state.makers.values()):
        if node.name in used:
            used.update(node.inputs)
            kept.append(node)
    return check_graph(Graph(graph.inputs, tuple(reversed(kept)), outputs), graph)


def exhaust(graph: Graph, rules: Sequence[Rule], limit: int = 1000) -> Graph:
    """Sweep until nothing changes."""
    for _ in range(limit):
        after = sweep(graph, rules)
        if after is None:
            return graph
        graph = after
    raise AssertionError(f"rewriting doesn't end after {limit} sweeps")
