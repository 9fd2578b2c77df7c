"""Chats from the process with limits: equal texts, refused templates, no code that runs."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.chat_templates import CHAT_TEMPLATES
from support.word_tokenizer import word_tokenizer

from distviz.data.chats import render_chats
from distviz.data.documents import Document
from distviz.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [Document("a", system="Be brief.", question="2?"), Document("b", question="größer\u2028")]


def test_many_chats_in_their_order(demo_tokenizer: Any) -> None:
    demo_tokenizer.chat_template = CHAT_TEMPLATES["gemma"]
    try:
        prompts = [*PROMPTS, *(Document(str(n), question="x" * 10_000 + str(n)) for n in range(30))]
        found = render_chats(prompts, demo_tokenizer)
        assert [chat.text for chat in found] == [
            demo_tokenizer.apply_chat_template(
                prompt.chat, tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        assert found[0].system is not None
        assert found[1].system is None
    finally:
        demo_tokenizer.chat_template = None


def test_the_same_chats_are_rendered_once_and_failures_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    class Popen(subprocess.Popen[str]):
        def __init__(self, *args: Any, **options: Any) -> None:
            started.append(args)
            super().__init__(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    tokenizer = word_tokenizer(chat_template="once {{ messages[-1].content }}")
    assert render_chats(PROMPTS, tokenizer) == render_chats(PROMPTS, tokenizer)
    assert len(started) == 1
    assert [chat.text for chat in render_chats(PROMPTS[:1], tokenizer)] == ["once 2?"]
    assert len(started) == 2
    for _ in range(2):
        with pytest.raises(RequestError, match="'a': division by zero"):
            render_chats(PROMPTS, word_tokenizer(chat_template="{{ 1 / 0 }}"))
    assert len(started) == 4


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('System role\nnot supported') }}", "'a': System role not supported"),
        ("{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3, "more than 3 seconds"),
        ("{% set n = 10**10 %}{{ 'x' * n }}", "too much memory"),
        ("{{ 'x' * 10**12 }}", "too much memory"),
        ("{% if messages|length == 1 %}{{ 1 / 0 }}{% endif %}", "'b': division by zero"),
    ],
)
def test_a_template_that_fails_is_named_with_its_document(template: str, reason: str) -> None:
    with pytest.raises(RequestError, match=r"the chat template of '.*' fails") as caught:
        render_chats(PROMPTS, word_tokenizer(chat_template=template))
    assert reason in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template"),
        ("", "has no chat template"),
        (5, "is no text but a int"),
        (["x"], "is no text but a list"),
        ({"tool": "x"}, "no default one"),
        ({"default": 5}, "is no text but a int"),
        ("x" * 1_000_001, "has 1,000,001 characters"),
    ],
)
def test_a_template_that_is_no_template(template: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        render_chats(PROMPTS, word_tokenizer(chat_template=template))


def test_no_code_runs_and_threads_do_not_disturb(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    template = f"{{{{ lipsum.__globals__['os'].system('touch {touched}') }}}}"
    good, bad = (word_tokenizer(chat_template=text) for text in ("{{ messages }}", template))
    failures: list[str] = []

    def refuse() -> None:
        try:
            render_chats(PROMPTS, bad)
        except RequestError as error:
            failures.append(error.message)

    other = threading.Thread(target=refuse)
    other.start()
    started = time.monotonic()
    assert len(render_chats(PROMPTS, good)) == 2
    assert time.monotonic() - started < 60
    other.join()
    assert len(failures) == 1
    assert not touched.exists()
