"""A process of its own that renders chats: a template is code from a file, it may never end.

Reads one JSON object from standard input and writes a JSON line for each chat. The kernel ends it
when the chats take too much processor time or (on Linux) memory.
"""

from __future__ import annotations

import json
import signal
import sys
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


def limit_memory() -> None:
    """Limit the memory of this process, where the system can, to what it has and `BYTES`."""
    import psutil

    if sys.platform == "linux":
        import resource

        wanted = psutil.Process().memory_info().vms + BYTES
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def render(request: dict[str, Any], messages: list[dict[str, str]]) -> dict[str, Any]:
    """Render one chat.

    Returns
    -------
    ``text``; and where the content of the first message and of the first one that is not a system
    prompt begin in it: ``first``, ``question``, the length of the text if the content is absent.
    """
    text = _text(request, messages)
    longest = 1_000_000 + 10 * len(request["template"]) + 10 * len(json.dumps(messages))
    if len(text) > longest:
        raise ValueError(f"it makes {counted(len(text), 'character')}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it writes a lone surrogate")
    question = next((n for n, one in enumerate(messages) if one["role"] != "system"), 0)
    places = [_place(request, messages, text, number) for number in (0, question)]
    return {"text": text, "first": places[0], "question": places[1]}


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


def answer(request: dict[str, Any], messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return what `render` does, or why it fails as ``error``."""
    try:
        return render(request, messages)
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
        found = answer(request, messages)
        left = min(SECONDS, signal.setitimer(signal.ITIMER_PROF, 0)[0] + _SHARE)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
