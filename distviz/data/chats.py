"""Chats rendered by the template of a tokenizer, in a process with limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from distviz.data import chat_renderer
from distviz.data.documents import Document
from distviz.errors import RequestError
from distviz.output import counted

_POLL_SECONDS = 0.1
_LONGEST = 1_000_000
"""Characters of a template."""


@dataclass(frozen=True)
class RenderedChat:
    """A chat as text.

    Attributes
    ----------
    text
        What the model reads.
    system, question
        Where the content of the system prompt and of the first other message begin; ``system`` is
        None without one. Equal to the length of the text if the template leaves it out.
    spans
        The role of each piece of a content in the text, its start and its end, in order.
    unknown
        Roles of messages whose place in the text is unknown.
    """

    text: str
    system: int | None
    question: int
    spans: tuple[tuple[str, int, int], ...] = ()
    unknown: tuple[str, ...] = ()


def template_of(tokenizer: Any) -> str:
    """Return the chat template of a tokenizer; RequestError if it has none that is text."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict) and "default" not in template:
        raise RequestError(
            f"--chat-template: {_name(tokenizer)} has several chat templates and no default one",
            "name one of them default in its tokenizer_config.json",
        )
    if isinstance(template, dict):
        template = template["default"]
    if not template:
        raise RequestError("--chat-template: this tokenizer has no chat template", "leave it out")
    if isinstance(template, str) and len(template) > _LONGEST:
        raise RequestError(
            f"--chat-template: the chat template of {_name(tokenizer)} has "
            f"{counted(len(template), 'character')}, at most {_LONGEST:,} are read",
            "leave it out",
        )
    if not isinstance(template, str):
        raise RequestError(
            f"--chat-template: the chat template of {_name(tokenizer)} is no text but a "
            f"{type(template).__name__}",
            "mend chat_template in its tokenizer_config.json, or leave the option out",
        )
    return template


def render_chats(documents: Sequence[Document], tokenizer: Any) -> list[RenderedChat]:
    """Render prompts and chats, as ``apply_chat_template`` of transformers does.

    Raises
    ------
    RequestError
        If there is no template, or it fails or takes too much time or memory with a document,
        which is named.
    """
    template = template_of(tokenizer)
    tokens = {
        name: list(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in tokenizer.special_tokens_map.items()
    }
    chats = [document.chat for document in documents]
    request = {"template": template, "special_tokens": tokens, "chats": chats}
    try:
        answers = _answers(json.dumps(request), len(chats))
    except _ChatError as error:
        reason = " ".join(error.reason.split())
        raise RequestError(
            f"the chat template of {_name(tokenizer)} fails with document "
            f"'{documents[error.number].id}': {reason}",
            "mend the template or the document, or leave --chat-template out",
        ) from None
    return [_rendered(*both) for both in zip(answers, chats, strict=True)]


def _rendered(answer: dict[str, Any], chat: list[dict[str, str]]) -> RenderedChat:
    roles = [message["role"] for message in chat]
    places = list(zip(roles, answer["spans"], strict=True))
    return RenderedChat(
        answer["text"],
        answer["first"] if roles[0] == "system" else None,
        answer["question"],
        tuple((role, *span) for role, spans in places for span in spans or ()),
        tuple(role for role, spans in places if spans is None),
    )


def _name(tokenizer: Any) -> str:
    return f"'{Path(getattr(tokenizer, 'name_or_path', '')).name or 'the tokenizer'}'"


def _reason(code: int, problem: str) -> str:
    if code == -signal.SIGPROF:
        return f"it takes more than {chat_renderer.SECONDS} seconds"
    if code < 0:
        return "it takes too much memory"
    return f"the process that renders it ended ({problem.strip().rpartition(chr(10))[2]})"


class _ChatError(Exception):
    """Why the chat of a number fails."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


@lru_cache(maxsize=1)  # a study asks for the same chats with each number of filler tokens
def _answers(request: str, n_chats: int) -> tuple[dict[str, Any], ...]:
    """Return what the process answers to each chat; `_ChatError` for the first that fails."""
    lines, code, problem = _run(request)
    answers = [json.loads(line) for line in lines]
    if len(answers) < n_chats:
        answers.append({"error": _reason(code, problem)})
    for number, answer in enumerate(answers):
        if "error" in answer:
            raise _ChatError(number, answer["error"])
    return tuple(answers)


def _run(request: str) -> tuple[list[str], int, str]:
    """Return the complete lines that the process writes, its exit code and its messages."""
    command = [sys.executable, "-P", str(chat_renderer.__file__)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    # Not a pipe: communicate() with a time limit forgets the rest of a long input.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as given:
        given.write(request)
        given.seek(0)
        with subprocess.Popen(
            command, env=environment, encoding="utf-8", stdin=given, **pipes
        ) as child:
            while True:
                try:
                    out, problem = child.communicate(timeout=_POLL_SECONDS)
                    return out.split("\n")[:-1], child.returncode, problem
                except subprocess.TimeoutExpired:
                    # For systems without a limit of memory for a process.
                    if _memory(child.pid) > len(request) * 8 + 2 * chat_renderer.BYTES:
                        child.kill()
                except BaseException:
                    child.kill()
                    raise


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
