"""Checks of a corpus against a model: ids, lengths, and what is left to count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from distviz.data.corpus import Corpus, note_on_documents
from distviz.errors import RequestError
from distviz.output import counted


def check_ids(corpus: Corpus, rows: int, tokenizer: Any) -> None:
    """Raise RequestError if a token has no row in an embedding of so many ``rows``."""
    for window in corpus.windows:
        beyond = window.ids[window.ids >= rows]
        if beyond.size:
            token = int(beyond[0])
            raise RequestError(
                f"token {token} ({tokenizer.decode([token])!r}) of document "
                f"'{corpus.documents[window.document].id}' has no row in the model's embedding, "
                f"which has {rows:,} (0 to {rows - 1:,})",
                "the tokenizer is not that of this model, or its added tokens were not trained",
            )


def check_lengths(corpus: Corpus, positions: int) -> None:
    """Raise RequestError if a window has more tokens than a model has ``positions``."""
    longest = max(corpus.windows, key=lambda window: window.ids.size)
    if longest.ids.size > positions:
        raise RequestError(
            f"document '{corpus.documents[longest.document].id}' has a window of "
            f"{counted(longest.ids.size, 'token')}, the model has {counted(positions, 'position')}",
            f"give --max-length {positions} or less, or a shorter prompt",
        )


def without_special(corpus: Corpus) -> Corpus:
    """Return the corpus with a note of documents of which ``--skip-special`` leaves no token.

    Raises
    ------
    RequestError
        If it leaves no token of any document.
    """
    special = np.array(sorted(corpus.special))
    kept = {w.document for w in corpus.windows if not np.isin(w.ids, special).all()}
    seen = dict.fromkeys(window.document for window in corpus.windows)
    empty = [corpus.documents[number].id for number in seen if number not in kept]
    if not kept:
        raise RequestError(
            f"--skip-special leaves nothing to measure: the text consists of "
            f"{counted(corpus.tokens, 'special token')}",
            "leave it out, or give another text",
        )
    what = "--skip-special leaves nothing of the text"
    notes = note_on_documents(what, empty, len(corpus.documents))
    return replace(corpus, notes=(*corpus.notes, *notes))
