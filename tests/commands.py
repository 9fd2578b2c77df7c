"""What a command left behind, for tests that call the real entry point."""

from __future__ import annotations


class Done:
    """What a command left: exit code, standard output, standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def complaint(self) -> list[str]:
        """The lines of the error, without what was said on the way."""
        lines = self.err.splitlines()
        start = [n for n, line in enumerate(lines) if line.startswith("distviz: ")]
        return lines[start[0] :] if start else []
