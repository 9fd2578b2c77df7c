"""The table of supported architectures: what examining every type of transformers has given.

It is plain data inside the package, written by ``scripts/examine_architectures.py`` from the tests
that build a tiny random model of each type, compare everything seen with an independent capture,
and put ARM into it. Neither torch nor transformers is imported here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

__all__ = ["Architecture", "Architectures", "load_architectures"]


@dataclass(frozen=True)
class Architecture:
    """One type of transformers.

    Attributes
    ----------
    type, class_name, causal
        ``model_type``, the class that was examined, and whether it is a causal language model.
    status
        ``"supported"``; ``"no MLP"`` where none was found that leads from one linear map into
        another; ``"untested"`` where the type could not be built or called, `reason` says why.
    found
        How the activation was found: ``class`` or ``name`` of a module, ``function`` called in an
        MLP's forward, ``gate`` of fused experts.
    where, activation
        Paths of the activations, ``N`` for an index and ``*`` for every expert; and their names.
    gated, routed
        Whether an activation is multiplied by an up projection; whether there are routed experts.
    stacks, sites
        Names of the stacks, and the places that can be observed.
    elsewhere
        Activations that are not those of an MLP, by module class and function, and their number.
    silent
        Places that the examined input did not reach, or that are computed without their module;
        asking for them is an error.
    norm
        Whether a norm stands before the down projection.
    needs
        A package beside transformers that its model is built with.
    """

    type: str
    class_name: str
    causal: bool
    status: str
    reason: str = ""
    found: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    activation: tuple[str, ...] = ()
    gated: bool = False
    routed: bool = False
    stacks: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    elsewhere: dict[str, int] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    norm: bool = False
    needs: str = ""

    @property
    def explanation(self) -> str:
        """Why the type is not supported; empty where it is."""
        if self.status == "no MLP":
            others = ", ".join(self.elsewhere) or "none at all"
            return f"no activation between two linear maps; there are {others}"
        return self.reason


@dataclass(frozen=True)
class Architectures:
    """Every type, in transformers' order, and the version that was examined."""

    transformers: str
    types: tuple[Architecture, ...]

    def group(self, *, causal: bool) -> list[Architecture]:
        """Return the causal language models, or the others."""
        return [one for one in self.types if one.causal is causal]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "schema_version": 1,
            "kind": "architectures",
            "transformers": self.transformers,
            "types": [asdict(one) for one in self.types],
        }


def load_architectures() -> Architectures:
    """Read the table that the package carries."""
    text = (resources.files("distviz.models.architectures") / "architectures.json").read_text(
        encoding="utf-8"
    )
    data = json.loads(text)
    return Architectures(data["transformers"], tuple(_from_row(row) for row in data["types"]))


def _from_row(row: dict[str, Any]) -> Architecture:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
    }
    return Architecture(**values)
