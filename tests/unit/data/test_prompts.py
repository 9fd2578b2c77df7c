"""Prompts: ids with a filler at its position, chat templates, ids of the prompt unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from support.word_tokenizer import word_tokenizer

from distviz.data.corpus import tokenize
from distviz.data.documents import Document
from distviz.data.prompts import Filler
from distviz.errors import RequestError

# Fillers ------------------------------------------------------------------------------------

PROMPT = Document("p", system="a b c", question="d e ?")
OWN = [4, 5, 6, 7, 8, 13]


def filled(position: str, *, string: str = "/", count: int = 3, seed: int = 0) -> list[int]:
    filler = Filler(string, count, position, seed)
    corpus = tokenize([PROMPT], word_tokenizer(), filler=filler)
    return corpus.windows[0].ids.tolist()


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("start", [12] * 3 + OWN),
        ("between", OWN[:3] + [12] * 3 + OWN[3:]),
        ("end", OWN + [12] * 3),
    ],
)
def test_where_a_filler_goes(position: str, expected: list[int]) -> None:
    assert filled(position) == expected


def test_a_random_place_follows_from_the_seed_and_keeps_the_run_together() -> None:
    found = {tuple(filled("random", seed=seed)) for seed in range(40)}
    assert len(found) > 3
    for ids in found:
        start = ids.index(12)
        assert list(ids[start : start + 3]) == [12] * 3
        assert [token for token in ids if token != 12] == OWN
    assert filled("random", seed=4) == filled("random", seed=4)


@pytest.mark.parametrize("position", ["start", "between", "end", "random"])
@pytest.mark.parametrize("string", ["/", "a ?", " zz"])
def test_the_prompt_keeps_its_ids(position: str, string: str, demo_tokenizer: Any) -> None:
    prompt = Document("p", system="You are help", question="ful. What is 3 + 4?")
    own = [
        token
        for part in (prompt.system, prompt.question)
        for token in demo_tokenizer(part, add_special_tokens=False)["input_ids"]
    ]
    run = demo_tokenizer(string, add_special_tokens=False)["input_ids"] * 5
    plain = tokenize([prompt], demo_tokenizer).windows[0].ids.tolist()
    assert plain == [0, *own]
    ids = tokenize([prompt], demo_tokenizer, filler=Filler(string, 5, position, 1))
    with_filler = ids.windows[0].ids.tolist()
    assert len(with_filler) == len(plain) + len(run)
    places = [i for i in range(len(with_filler)) if with_filler[i : i + len(run)] == run]
    assert any(with_filler[:i] + with_filler[i + len(run) :] == plain for i in places)


def test_no_repetition_is_no_filler() -> None:
    assert filled("between", count=0) == OWN


TEMPLATE = (
    "{% for m in messages %}{{ '[CLS] ' if m.role == 'system' else '[SEP] ' }}"
    "{{ m.content }} {% endfor %}{% if add_generation_prompt %}g{% endif %}"
)


def test_a_chat_template_wraps_prompts_and_the_filler_stands_where_it_was_put() -> None:
    tokenizer = word_tokenizer(chat_template=TEMPLATE)

    def ids(filler: Filler | None = None) -> list[int]:
        corpus = tokenize([PROMPT], tokenizer, filler=filler, chat_template=True)
        return corpus.windows[0].ids.tolist()

    assert ids() == [1, 4, 5, 6, 2, 7, 8, 13, 10]
    assert ids(Filler("/", 2, "between", 0)) == [1, 4, 5, 6, 2, 12, 12, 7, 8, 13, 10]
    assert ids(Filler("/", 2, "start", 0)) == [1, 12, 12, 4, 5, 6, 2, 7, 8, 13, 10]
    with pytest.raises(RequestError, match="no chat template"):
        tokenize([PROMPT], word_tokenizer(), chat_template=True)
