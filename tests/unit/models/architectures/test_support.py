"""The table of supported architectures, and how its rows are read."""

from __future__ import annotations

import json

from distviz.models.architectures import load_architectures
from distviz.models.architectures.support import Architecture, Architectures


def test_the_table_of_the_package_is_whole() -> None:
    table = load_architectures()
    names = [one.type for one in table.types]
    assert len(names) == len(set(names))
    assert {one.status for one in table.types} <= {"supported", "no MLP", "untested"}
    assert all(one.sites and one.activation for one in table.types if one.status == "supported")
    causal, others = table.group(causal=True), table.group(causal=False)
    assert len(causal) + len(others) == len(names)
    assert {one.causal for one in causal} == {True}


def test_plain_data_for_json() -> None:
    row = Architecture("llama", "LlamaForCausalLM", True, "supported", stacks=("decoder",))
    data = json.loads(json.dumps(Architectures("5.23", (row,)).as_dict()))
    assert (data["kind"], data["schema_version"], data["transformers"]) == (
        "architectures",
        1,
        "5.23",
    )
    assert data["types"][0]["stacks"] == ["decoder"]


def test_why_a_type_is_not_supported() -> None:
    def explain(status: str, **fields: object) -> str:
        return Architecture("x", "X", True, status, **fields).explanation  # type: ignore[arg-type]

    assert explain("supported") == ""
    assert explain("untested", reason="needs a GPU") == "needs a GPU"
    assert explain("no MLP", elsewhere={"MambaMixer silu": 2}).endswith("MambaMixer silu")
    assert explain("no MLP").endswith("elsewhere: none")
