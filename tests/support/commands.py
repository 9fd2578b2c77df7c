"""What a command left behind, for tests that call the real entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Done:
    """What a command left: exit code, standard output, standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def complaint(self) -> list[str]:
        """The lines of the error, without what was said on the way."""
        lines = self.err.splitlines()
        start = [n for n, line in enumerate(lines) if line.startswith("distviz: ")]
        return lines[start[0] :] if start else []


HEAVY = ("torch", "numba", "transformers")
"""Modules that no showing command imports."""


def process(*args: str | Path, env: dict[str, str] | None = None, **options: Any) -> Done:
    """Run the command as a process of its own, its output in pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "distviz", *map(str, args)],
        capture_output=True, text=True, check=False, env=os.environ | (env or {}),
        stdin=None if "input" in options else subprocess.DEVNULL, encoding="utf-8", **options,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)
