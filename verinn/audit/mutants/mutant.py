"""What a mutant is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from verinn.audit.instance import Instance
from verinn.audit.mutants.patch import Patch


@dataclass(frozen=True)
class Mutant:
    """A fault and how it is injected.

    ``room``: where the fault sits. ``fault``: what is wrong, in a line. ``apply``: injects it. ``blind``: no
    counterexample may be found, by attack or luck, so that only proofs speak: a fault in a proof shows as a
    wrong `unsat` rather than being covered by a quick attack. ``unguarded``: the comparison with ONNX Runtime
    at load is off, which would refuse the model before the fault can show. ``helper``: the search may start its
    second process. ``where``: words of families, operators or shapes on which it is tried first; those joined by a
    plus must all be there. ``wide`` are those of more than 32 inputs. ``engine``: the one that is to decide.
    ``guided``: exact solvers are asked about what bounds leave open; without, bounds decide alone, whose faults
    exact solvers would cover.
    """

    name: str
    room: str
    fault: str
    apply: Callable[[Patch], None]
    blind: bool = True
    unguarded: bool = False
    helper: bool = False
    where: tuple[str, ...] = ()
    engine: str = "auto"
    guided: bool = False

    def rank(self, instance: Instance) -> tuple[int, bool, int, int]:
        """Where the instance stands in the order in which they are tried: apt ones first, small ones first."""
        wide = instance.inputs > 32  # there phases are split, not boxes
        text = " ".join((instance.family, instance.shape, *instance.operators, "wide" if wide else "")).lower()
        place = next((i for i, words in enumerate(self.where) if _all(words.lower(), text)), len(self.where))
        return place, instance.inputs > 12, len(instance.operators), instance.parameters


def _all(words: str, text: str) -> bool:
    return all(word in text for word in words.split("+"))
