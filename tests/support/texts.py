"""Short documents that several tests measure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TEXTS = [
    "Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away. " * 3,
    "If it rains, then we stay at home because the road is wet.",
    "One morning in January, Maria found a warm telescope behind the market. " * 2,
    "9 * 3 = 27",
]

LONG = "Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away. "
STREAMED_TEXTS = [LONG * 3, "9 * 3 = 27", "If it rains, then we stay at home. " * 3]


@contextmanager
def text_files(texts: Sequence[str] = TEXTS) -> Iterator[list[str]]:
    """Write a file for each text, and return their paths while the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.txt") for number in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, encoding="utf-8")
        yield list(map(str, files))
