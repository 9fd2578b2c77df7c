"""A process of its own that renders chats: a template is code from a file, it may never end.

Reads one JSON object from standard input and writes a JSON line for each chat. The kernel ends it
when the chats take too much processor time or (on Linux) memory.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from distviz.output import counted

SECONDS = 3
"""Processor time for one chat."""
BYTES = 1 << 30
"""Memory beside what the process takes without a chat."""
_SHARE = 0.05
"""Seconds that each further chat adds to what the ones before it left."""
_SHOWN = 300
_MARK = "\ue000"
_FIRST_MARK, _LAST_MARK = "\U00100000", "\U0010fffd"
"""Characters for private use: two for each message, before and behind its content."""

Spans = list[tuple[int, int]]


def limit_memory() -> None:
    """Limit the memory of this process, where the system can, to what it has and `BYTES`."""
    import psutil

    if sys.platform == "linux":
        import resource

        wanted = psutil.Process().memory_info().vms + BYTES
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def render(
    request: dict[str, Any], messages: list[dict[str, str]], seconds: float
) -> dict[str, Any]:
    """Render one chat; places are looked for during at most ``seconds`` of processor time.

    Returns
    -------
    ``text``; ``spans``, a list of [start, end] for each message: where its content is in the text,
    empty if the template leaves it out, None if it is unknown (the template rewrites it, or
    there is no time); and where the content of the first message and of the first one that is not
    a system prompt begin: ``first``, ``question``, the length of the text if it is absent.
    """
    text = _text(request, messages)
    longest = 1_000_000 + 10 * len(request["template"]) + 10 * len(json.dumps(messages))
    if len(text) > longest:
        raise ValueError(f"it makes {counted(len(text), 'character')}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it writes a lone surrogate")
    spans = _spans(request, messages, text, seconds)
    question = next((n for n, one in enumerate(messages) if one["role"] != "system"), 0)
    places = [
        found[0][0] if (found := spans[number]) else _place(request, messages, text, number)
        for number in (0, question)
    ]
    return {"text": text, "spans": spans, "first": places[0], "question": places[1]}


def _text(request: dict[str, Any], messages: list[dict[str, str]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    found = render_jinja_template(
        conversations=[messages],
        chat_template=request["template"],
        add_generation_prompt=messages[-1]["role"] != "assistant",
        **request["special_tokens"],
    )
    return str(found[0][0])


def _place(request: dict[str, Any], messages: list[dict[str, str]], text: str, number: int) -> int:
    """Return where the content of a message begins in the text: a mark before it moves it."""
    marked = [dict(one) for one in messages]
    marked[number]["content"] = _MARK + marked[number]["content"]
    pairs = zip(text, _text(request, marked), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(text))


def _spans(
    request: dict[str, Any], messages: list[dict[str, str]], text: str, seconds: float
) -> list[Spans | None]:
    """Return where the content of each message is in the text.

    Marks around the contents are rendered with them. They tell the places where the text without
    them is the text of the plain chat; a template that strips white space needs them inside of it.
    All messages are marked at once, or one at a time where that changes the text.
    """
    contents = [one["content"] for one in messages]
    most = (ord(_LAST_MARK) - ord(_FIRST_MARK)) // 2
    if len(messages) > most or any(c >= _FIRST_MARK for c in "".join([text, *contents])):
        return [None] * len(messages)
    latest = time.process_time() + seconds
    spans = _marked(request, messages, text, {n: (0, len(c)) for n, c in enumerate(contents)})
    if spans is None:
        spans = {}
        for number, content in enumerate(contents):
            tries = (_marked(request, messages, text, {number: e}) for e in _ends(content))
            in_time = itertools.takewhile(lambda _: time.process_time() < latest, tries)
            spans |= next((found for found in in_time if found), {})
    return [spans.get(number) for number in range(len(messages))]


def _ends(content: str) -> dict[tuple[int, int], None]:
    """Return where marks may stand in a content: outside or inside of its white space."""
    start, end = len(content) - len(content.lstrip()), len(content.rstrip())
    pairs = [(0, len(content)), (0, end), (start, len(content)), (start, end)]
    return dict.fromkeys(pair for pair in pairs if pair[0] <= pair[1])


def _marked(
    request: dict[str, Any],
    messages: list[dict[str, str]],
    text: str,
    ends: Mapping[int, tuple[int, int]],
) -> dict[int, Spans] | None:
    """Return the places of some messages, with marks at two places of each.

    None if marks change the text. A message whose marks do not come in pairs is left out, and so
    is one without marks whose content may be in the text.
    """
    marked = [dict(one) for one in messages]
    for number, (start, end) in ends.items():
        content = messages[number]["content"]
        first, last = (chr(ord(_FIRST_MARK) + 2 * number + side) for side in (0, 1))
        if content:
            parts = content[:start], first, content[start:end], last, content[end:]
            marked[number]["content"] = "".join(parts)
    try:
        rendered = _text(request, marked)
    except Exception:  # noqa: BLE001  (a template may refuse what it does not know)
        return None
    if re.sub(f"[{_FIRST_MARK}-{_LAST_MARK}]", "", rendered) != text:
        return None
    marks_of: dict[int, list[tuple[int, int]]] = {number: [] for number in ends}
    place = 0
    for character in rendered:
        if character < _FIRST_MARK:
            place += 1
            continue
        number, side = divmod(ord(character) - ord(_FIRST_MARK), 2)
        marks_of[number].append((side, place))
    found = {}
    for number, marks in marks_of.items():
        sides, places = [side for side, _ in marks], [place for _, place in marks]
        content = messages[number]["content"].strip()
        is_absent = not marks and (not content or content not in text)
        if is_absent or (marks and sides == [0, 1] * (len(marks) // 2)):
            found[number] = list(zip(places[::2], places[1::2], strict=True))
    return found


def answer(
    request: dict[str, Any], messages: list[dict[str, str]], seconds: float = SECONDS / 2
) -> dict[str, Any]:
    """Return what `render` does, or why it fails as ``error``."""
    try:
        return render(request, messages, seconds)
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it is nested too deep, or calls itself without end"}
    except Exception as error:  # noqa: BLE001  (whatever code from a file raises)
        return {"error": (str(error).strip() or type(error).__name__)[:_SHOWN]}


def main() -> None:
    """Render all chats of the request."""
    from transformers.utils import chat_template_utils  # noqa: F401  (not in the time of a chat)

    request = json.load(sys.stdin)
    limit_memory()
    left: float = SECONDS
    for messages in request["chats"]:
        # The default action of SIGPROF ends the process, also inside C code.
        signal.setitimer(signal.ITIMER_PROF, left)
        found = answer(request, messages, left / 2)
        left = min(SECONDS, signal.setitimer(signal.ITIMER_PROF, 0)[0] + _SHARE)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
