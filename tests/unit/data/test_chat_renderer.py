"""One chat: the text of transformers, the places of its contents, reasons of failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from support.chat_templates import CHAT_TEMPLATES

from distviz.data import chat_renderer
from distviz.data.chat_renderer import answer

CHAT = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": " 2 + 2? "}]


def rendered(template: str, chat: list[dict[str, str]] = CHAT) -> dict[str, Any]:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return answer({"template": template, "special_tokens": tokens}, chat)


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_text_and_the_places_of_its_contents(name: str, demo_tokenizer: Any) -> None:
    found = rendered(CHAT_TEMPLATES[name])
    expected = demo_tokenizer.apply_chat_template(
        CHAT, chat_template=CHAT_TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert found["text"] == expected
    assert found["text"][found["first"] :].lstrip().startswith("Be brief.")
    assert found["text"][found["question"] :].lstrip().startswith("2 + 2?")


def test_a_finished_chat_gets_no_generation_prompt() -> None:
    done = [*CHAT, {"role": "assistant", "content": "4"}]
    assert rendered(CHAT_TEMPLATES["chatml"])["text"].endswith("assistant\n")
    assert rendered(CHAT_TEMPLATES["chatml"], done)["text"].endswith("4<|im_end|>\n")


def test_a_content_that_is_left_out_is_at_the_end() -> None:
    found = rendered("{{ messages[-1].content }}")
    assert (found["first"], found["question"]) == (len(found["text"]), 0)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for %}", "Expected an expression"),
        ("{{ a.b }}", "'a' is undefined"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deep"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'x' * 2000000 }}", "makes 2,000,000 characters"),
        ("{{ '\\ud83d' }}", "lone surrogate"),
    ],
)
def test_why_a_template_fails(template: str, reason: str) -> None:
    assert reason in rendered(template)["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel limits memory on Linux only")
def test_a_lower_limit_of_the_system_is_kept() -> None:
    request = {"template": "{{ messages[0].content }}", "special_tokens": {}, "chats": [CHAT]}
    limited = f"ulimit -v 8000000; exec {sys.executable} -P {chat_renderer.__file__}"
    done = subprocess.run(
        ["bash", "-c", limited],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(done.stdout)["text"] == CHAT[0]["content"]


# Where contents are -------------------------------------------------------------------------

TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4\n"},
    {"role": "user", "content": "2 + 2?"},
]


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_content_of_each_message_is_found(name: str) -> None:
    found = rendered(CHAT_TEMPLATES[name], TALK)
    for one, spans in zip(TALK, found["spans"], strict=True):
        ((start, end),) = spans
        assert found["text"][start:end].strip() == one["content"].strip()
    starts = [spans[0][0] for spans in found["spans"]]
    assert starts == sorted(set(starts))


GIVEN, SUM = " Be brief. ", "2 + 2?"
END = "{% endfor %}"
LOOP = "{% for m in messages %}"


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        (LOOP + "{{ m.content | upper }}" + END, [[" BE BRIEF. "], [SUM]]),
        (LOOP + "{{ m.content }}|{{ m.content }}" + END, [[GIVEN] * 2, [SUM] * 2]),
        (LOOP + "{{ m.content.rstrip() }}" + END, [[" Be brief."], [SUM]]),
        (LOOP + "{{ m.content.lstrip() }}" + END, [["Be brief. "], [SUM]]),
        ("{{ messages[1].content }}", [[], [SUM]]),
        ("{{ messages[0].content }}{{ messages[1].content | tojson }}", [[GIVEN], [SUM]]),
        (LOOP + "{{ m.content | reverse }}" + END, [None, None]),
        (LOOP + "{{ m.content.split('+')[-1] }}" + END, [[GIVEN], None]),
        (LOOP + "{{ m.content if m.content[0] == ' ' else 'x' }}" + END, [["Be brief. "], []]),
        (LOOP + "{{ m.content | length }}" + END, [None, None]),
        (LOOP + "{{ m.content }}{% endfor %}\U0010ffab", [None, None]),
    ],
)  # fmt: skip
def test_a_content_that_is_not_there_as_given(template: str, texts: list[list[str] | None]) -> None:
    found = rendered(template, TALK[:2])
    pieces = [
        None if spans is None else [found["text"][start:end] for start, end in spans]
        for spans in found["spans"]
    ]
    assert pieces == texts


def test_without_time_places_are_unknown() -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    request = {"template": CHAT_TEMPLATES["bos"], "special_tokens": tokens}
    assert answer(request, TALK, 0.0)["spans"] == [None] * len(TALK)
    assert answer(request, TALK)["spans"] != [None] * len(TALK)
