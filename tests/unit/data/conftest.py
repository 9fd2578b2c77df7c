"""Chats rendered in the process of the tests, by the function that the other process calls."""

from __future__ import annotations

import json

import pytest

from distviz.data import chat_renderer, chats


@pytest.fixture
def in_process_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(text: str) -> tuple[list[str], int, str]:
        request = json.loads(text)
        found = [chat_renderer.answer(request, messages) for messages in request["chats"]]
        return list(map(json.dumps, found)), 0, ""

    monkeypatch.setattr(chats, "_run", run)
