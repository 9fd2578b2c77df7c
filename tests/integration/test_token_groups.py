"""Roles and positions of a run, against plain hooks and spans that are written here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.chat_templates import CHAT_TEMPLATES
from transformers import AutoModelForCausalLM, AutoTokenizer

import distviz

CHATS: list[list[tuple[str, str]]] = [
    [("system", "Be brief."), ("user", "What is 2 + 2, and why?"), ("assistant", "It is 4.")],
    [("user", "Count to 12."), ("assistant", "1, 2 </s> 3"), ("user", "More, then stop")],
    [("user", "x"), ("tool", "y = 7"), ("assistant", "if so, 7")],
]
LAYER = 2


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    """Return the demo model with a chat template."""
    folder = tmp_path_factory.mktemp("chats") / "model"
    AutoModelForCausalLM.from_pretrained(demo_folder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(demo_folder)
    tokenizer.chat_template = CHAT_TEMPLATES["plain"]
    tokenizer.save_pretrained(folder)
    return folder


def documents(chats: list[list[tuple[str, str]]] = CHATS) -> list[dict[str, Any]]:
    return [{"messages": [{"role": r, "content": c} for r, c in chat]} for chat in chats]


def by_hand(tokenizer: Any, chat: list[tuple[str, str]]) -> tuple[list[int], list[str]]:
    """Return the ids of a chat by the plain template, and the role of each.

    The characters of a token are those of its bytes, which are added up.
    """
    text, of_character = "", []
    for role, content in chat:
        named = role if role in ("system", "user", "assistant") else "rest"
        line = f"{role}: ", content, "\n"
        text += "".join(line)
        of_character += ["rest"] * len(line[0]) + [named] * len(content) + ["rest"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    roles, place = ["special"], 0
    for one in ids:
        size = len(tokenizer.decode([one]))
        inside = [role for role in of_character[place : place + size] if role != "rest"]
        special = one in tokenizer.all_special_ids
        roles.append("special" if special else inside[0] if inside else "rest")
        place += size
    assert place == len(text)
    return [tokenizer.bos_token_id, *ids], roles


def captured(folder: Path) -> tuple[list[list[str]], list[np.ndarray]]:
    """Return roles and absolute values at ``act`` of each chat alone, float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen: list[np.ndarray] = []
    hook = model.model.layers[LAYER].mlp.act_fn.register_forward_hook(
        lambda _m, _a, out: seen.append(out[0].double().abs().numpy())
    )
    found = [by_hand(tokenizer, chat) for chat in CHATS]
    with torch.inference_mode(), hook:
        for ids, _ in found:
            model(torch.tensor([ids]))
    return [roles for _, roles in found], seen


def shares(roles: list[list[str]], seen: list[np.ndarray], eps: float) -> dict[Any, Any]:
    """Return tokens and near-zero share by partition and name."""
    values: dict[Any, list[np.ndarray]] = {}
    for own_roles, rows in zip(roles, seen, strict=True):
        for place, (role, row) in enumerate(zip(own_roles, rows, strict=True)):
            low = 2 ** (place.bit_length() - 1) if place else 0
            name = str(place) if place < 2 else f"{low}-{2 * low - 1}"
            values.setdefault(("role", role), []).append(row)
            values.setdefault(("position", name), []).append(row)
    return {
        group: (len(rows), (np.concatenate(rows) < eps).mean()) for group, rows in values.items()
    }


def measured(folder: Path, **options: Any) -> distviz.Run:
    return distviz.run(
        folder, text=documents(), chat_template=True, classes="all", arm_layers="none",
        layers=str(LAYER), dtype="float32", **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 2, "stream": True}],
    ids=["alone", "padded", "streamed"],
)
def test_shares_are_those_of_brute_force(options: dict[str, Any], chat_folder: Path) -> None:
    run = measured(chat_folder, **options)
    key = run.find(LAYER)
    roles, seen = captured(chat_folder)
    # Counted values are rounded to bf16.
    rounded = [torch.from_numpy(one).bfloat16().double().numpy() for one in seen]
    expected = shares(roles, rounded, run.bands[key])
    table = run.classes()
    table = table[table["partition"] != "class"]
    found = {
        (row["partition"], row["token_class"]): (row["tokens"], row["near_zero"])
        for row in table.to_dict("records")
    }
    assert found.keys() == expected.keys()
    width = seen[0].shape[1]
    for group, (tokens, share) in expected.items():
        assert found[group][0] == tokens, group
        # A value beside eps may round to the other side where a batch changes its last bits.
        assert abs(found[group][1] - share) * tokens * width < 2, group
    assert {"system", "user", "assistant", "special", "rest"} <= {name for _, name in found}
    whole = run.merged[key].count
    for partition in ("role", "position"):
        assert sum(one.count for one in run.groups[key][partition].values()) == whole


def test_prompts_without_a_template_have_roles_too(chat_folder: Path) -> None:
    plain = [{"system": "Be brief.", "question": "2 + 2?"}, *documents([CHATS[0]]), "Only text."]
    run = distviz.run(chat_folder, text=plain, classes="all", arm_layers="none", layers="0")
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    sizes = {
        text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in ("Be brief.", "2 + 2?", CHATS[0][1][1], CHATS[0][2][1], "Only text.")
    }
    assert run.manifest["token_groups"]["role"] == {
        "system": 2 * sizes["Be brief."],
        "user": sizes["2 + 2?"] + sizes[CHATS[0][1][1]],
        "assistant": sizes[CHATS[0][2][1]],
        "special": 3,
        "rest": sizes["Only text."],
    }


def test_text_without_roles_has_positions_and_its_start(chat_folder: Path, tmp_path: Path) -> None:
    run = distviz.run(
        chat_folder, text=["one </s> two"], classes="all", arm_layers="none", layers="0"
    )
    assert run.manifest["token_groups"]["role"]["special"] == 2
    table = pd.read_csv(run.save(tmp_path / "run") / "classes.csv")
    assert set(table["partition"]) == {"class", "role", "position"}
    sums = table.groupby("partition")["tokens"].sum()
    assert len(set(sums)) == 1
    skipped = distviz.run(
        chat_folder, text=["one </s> two"], classes="all", arm_layers="none", layers="0",
        skip_special=True,
    )  # fmt: skip
    assert "role" not in skipped.manifest["token_groups"]
    assert set(skipped.classes()["partition"]) == {"class", "position"}


def test_a_filler_has_its_role_and_prompts_keep_theirs(chat_folder: Path) -> None:
    prompts = [{"system": "Be brief.", "question": "2 + 2?"}]
    options: dict[str, Any] = {"classes": "all", "arm_layers": "none", "layers": "0"}
    filled, plain = (
        distviz.run(chat_folder, text=prompts, **options, **more)
        for more in ({"filler": " so </s>", "filler_count": 3, "filler_position": "between"}, {})
    )
    roles = filled.manifest["token_groups"]["role"]
    sizes = [one.manifest["text"]["tokens"] for one in (filled, plain)]
    assert roles.pop("filler") == sizes[0] - sizes[1]
    assert roles == plain.manifest["token_groups"]["role"]


def test_a_message_that_the_template_rewrites_has_no_role_and_a_warning(
    chat_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in chat_folder.iterdir():
        (folder / file.name).symlink_to(file)
    thinking = (
        "{% for m in messages %}{{ m.role }}: "
        "{{ m.content.split('</think>')[-1].lstrip() }}\n{% endfor %}"
    )
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(thinking)
    chat = [("user", "Why 4?"), ("assistant", "<think>Hm.</think> Because.")]
    run = distviz.run(
        folder, text=documents([chat]), chat_template=True, classes="all", arm_layers="none",
        layers="0",
    )  # fmt: skip
    assert "assistant" not in run.manifest["token_groups"]["role"]
    assert run.manifest["token_groups"]["role"]["user"] > 0
    assert any("the role of its tokens is rest" in one for one in run.manifest["warnings"])


def test_both_sides_of_a_comparison_have_roles_and_positions(
    chat_folder: Path, tmp_path: Path
) -> None:
    run = measured(chat_folder)
    compared = distviz.compare(run, run)
    again = distviz.Comparison.load(compared.save(tmp_path / "out"))
    table = again.classes
    assert set(table["partition"]) == {"class", "role", "position"}
    assert (table["near_zero_a"] == table["near_zero_b"]).all()
    own = run.classes().set_index(["partition", "token_class"])["near_zero"]
    for row in table.to_dict("records"):
        assert row["near_zero_a"] == own[row["partition"], str(row["token_class"])]
    assert json.loads((tmp_path / "out" / "a" / "run.json").read_text())["token_groups"]
