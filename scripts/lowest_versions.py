"""Print the lowest versions that pyproject.toml allows, one requirement per line.

``python scripts/lowest_versions.py [EXTRA …]``; torch is left out: its builds are chosen by index.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

LEFT_OUT = {"torch"}


def lowest(requirements: list[str]) -> list[str]:
    """Return ``name==version`` for each ``name>=version``; other forms are errors."""
    pinned = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if found is None:
            raise SystemExit(f"{requirement}: a lower bound (name>=version) is expected")
        if found[1] not in LEFT_OUT:
            pinned.append(f"{found[1]}=={found[2]}")
    return pinned


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [line for name in sys.argv[1:] for line in extras[name]]
    print("\n".join(lowest(wanted)))
