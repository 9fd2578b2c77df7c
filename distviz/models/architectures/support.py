"""The table of supported architectures: the result of examining every type of transformers.

``scripts/examine_architectures.py`` writes it from the tests that build a tiny random model of each
type, compare all observed values with an independent capture, and apply ARM. Reading it imports
neither torch nor transformers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One model type of transformers.

    Attributes
    ----------
    type, class_name, causal
        ``model_type``, the examined class, and whether it is a causal language model.
    status
        ``"supported"``; ``"no MLP"`` if there is no activation between two linear layers;
        ``"untested"`` if the type could not be built or called (see `reason`).
    found
        How the activation was found: ``class`` or ``name`` of a module, ``function`` called in an
        MLP's forward, ``gate`` of fused experts.
    where, activation
        Paths of the activations, ``N`` for an index and ``*`` for every expert; and their names.
    gated, routed
        Whether an activation is multiplied by an up projection; whether there are routed experts.
    stacks, sites
        Names of the stacks, and the sites that can be observed.
    elsewhere
        Number of activations outside MLPs, by module class and function.
    silent
        Sites that the examined input did not reach, or that are computed without their module;
        observing them is an error.
    norm
        Whether there is a norm before the down projection.
    needs
        A further package that its model requires.
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
            others = ", ".join(self.elsewhere) or "none"
            return f"no activation between two linear layers; activations elsewhere: {others}"
        return self.reason


@dataclass(frozen=True)
class Architectures:
    """Every type, in the order of transformers, and the examined version."""

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
    """Read the table from the package."""
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
