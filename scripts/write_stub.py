"""Write ``distviz/functions.pyi``: the functions of the commands, for editors and type checkers.

python scripts/write_stub.py
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from distviz import functions

PATH = Path(functions.__file__).with_suffix(".pyi")
_HEAD = '''"""Written by scripts/write_stub.py from the records of the options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from distviz.progress import Progress
from distviz.results import Allocation, Comparison, FillerStudy, Run, Sweep, WhatIf
from distviz.settings import RunSettings
from distviz.studies import Continuations, Inspection
'''


def stub() -> str:
    """Return the text of the stub, not formatted."""
    found = [one for one in vars(functions).values() if inspect.isfunction(one)]
    return "\n\n".join([_HEAD, *map(_function, found)])


def _function(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    parts = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        parts.append(f"{one.name}: {one.annotation}{default}")
    name = getattr(function, "__name__", "")
    head = f"def {name}({', '.join(parts)}) -> {signature.return_annotation}:"
    text = inspect.getdoc(function) or ""
    return head + "\n" + indent(f'"""{text}\n"""', "    ")


def main() -> None:
    """Write and format the stub."""
    PATH.write_text(stub(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(PATH)], check=True)


if __name__ == "__main__":
    main()
