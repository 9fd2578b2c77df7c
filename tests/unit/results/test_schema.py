"""The declared fields of manifests: what they allow, what they refuse by name."""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec
import pytest

from distviz.results import schema
from distviz.sites import PHASES

RUN = {"schema_version": 3, "kind": "run"}
COMPARISON = {"schema_version": 3, "phase_a": "before", "phase_b": "after", "sites": None}
SWEEP = {"schema_version": 3, "budget_kl": 0.1, "by_layer": False, "model": {"name": "m"}}


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        (schema.RunManifest, RUN),
        (schema.RunManifest, RUN | {"mine": [1, {"x": None}], "model": {"mine": 1}}),
        (schema.RunManifest, RUN | {"model": None, "arm": None, "text": {}, "settings": {}}),
        (schema.ComparisonManifest, COMPARISON),
        (schema.SweepManifest, SWEEP),
        (schema.WhatIfManifest, {"schema_version": 3, "percentile": 99.9}),
        (schema.FillerManifest, {"schema_version": 3, "filler": "a\n\tb"}),
        (schema.SavedText, {"id": "1", "text": "line\nline", "label": 3}),
    ],
)
def test_what_is_allowed(kind: Any, tree: Any) -> None:
    schema.check(tree, kind)


HOSTILE = ["x", [], {}, True, -2, 10**30, 2**63, math.inf, math.nan]


@pytest.mark.parametrize(
    ("kind", "base", "path", "allowed"),
    [
        (schema.RunManifest, RUN, ("model", "layers"), ()),
        (schema.RunManifest, RUN, ("text", "tokens"), ()),
        (schema.RunManifest, RUN, ("text", "documents"), ()),
        (schema.RunManifest, RUN, ("arm", "fraction"), ()),
        (schema.RunManifest, RUN, ("near_zero_c",), (10**30, 2**63, math.inf)),
        (schema.RunManifest, RUN, ("effect", "loss_before"), (-2, 10**30, 2**63)),
        (schema.RunManifest, RUN, ("kind",), ()),
        (schema.RunManifest, RUN, ("warnings",), ([],)),
        (schema.RunManifest, RUN, ("model",), ({},)),
        (schema.ComparisonManifest, COMPARISON, ("phase_a",), ()),
        (schema.ComparisonManifest, COMPARISON, ("layers",), ([],)),
        (schema.SweepManifest, SWEEP, ("budget_kl",), (10**30, 2**63, math.inf)),
        (schema.SweepManifest, SWEEP, ("by_layer",), (True,)),
    ],
)
def test_a_hostile_value_is_refused_with_its_field(
    kind: Any, base: Any, path: tuple[str, ...], allowed: tuple[Any, ...]
) -> None:
    for value in HOSTILE:
        if any(value == one and type(value) is type(one) for one in allowed):
            continue
        tree = value
        for name in reversed(path):
            tree = {name: tree}
        with pytest.raises(ValueError, match=rf"in {'.'.join(path)}"):
            schema.check(base | tree, kind)


def test_a_missing_field_is_named() -> None:
    for name in ("budget_kl", "by_layer", "model"):
        with pytest.raises(ValueError, match=f"^it has no {name}"):
            schema.check(
                {key: one for key, one in SWEEP.items() if key != name}, schema.SweepManifest
            )


def test_the_phases_are_those_of_the_sites() -> None:
    assert get_args(schema.Phase) == tuple(PHASES)


def test_no_schema_forbids_additional_fields() -> None:
    kinds = [one for one in vars(schema).values() if isinstance(one, type)]
    structs = [one for one in kinds if issubclass(one, msgspec.Struct)]
    assert len(structs) > 10
    assert not any(one.__struct_config__.forbid_unknown_fields for one in structs)
