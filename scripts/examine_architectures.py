"""Examine every type of transformers and write the table that ``distviz inspect`` prints.

Run in the repository: ``python scripts/examine_architectures.py [TYPE ...]``. If there are
problems, they are printed and nothing is written. Rows of types that require a missing package do
not change, also where these types are given; with types given, only these are examined.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "distviz" / "models" / "architectures" / "architectures.json"


def _examine(kind: str) -> tuple[dict[str, Any], list[str]]:
    import torch
    from support.architectures import battery

    torch.set_num_threads(1)
    examined = battery.examine(kind)
    return examined.row, examined.wrong


def _is_installed(row: dict[str, Any]) -> bool:
    """Return whether the package that a type requires is installed."""
    return not row.get("needs") or importlib.util.find_spec(row["needs"]) is not None


def main() -> None:
    """Write the table, or exit with the problems."""
    sys.path.insert(0, str(ROOT / "tests"))
    import transformers
    from support.architectures import battery

    stored = {row["type"]: row for row in json.loads(TARGET.read_text())["types"]}
    kinds = [k for k in sys.argv[1:] or battery.types() if _is_installed(stored.get(k, {}))]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(_examine, kinds, chunksize=4))
    wrong = [f"{row['type']}: {one}" for row, found in results for one in found]
    if wrong:
        sys.exit("\n".join(wrong))
    stored |= {row["type"]: row for row, _ in results}
    rows = [stored[kind] for kind in battery.types()]
    lines = ",\n".join(map(json.dumps, rows))
    head = f'{{"schema_version": 1, "transformers": "{transformers.__version__}", "types": [\n'
    TARGET.write_text(f"{head}{lines}\n]}}\n", encoding="utf-8")
    supported = sum(row["status"] == "supported" for row in rows)
    print(f"{supported} of {len(rows)} types supported: {TARGET}")


if __name__ == "__main__":
    main()
