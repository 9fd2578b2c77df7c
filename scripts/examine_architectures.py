"""Examine every type of transformers and write the table that ``distviz inspect`` prints.

Run in the repository: ``python scripts/examine_architectures.py``. Anything wrong is printed, and
nothing is written.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "distviz" / "architectures.json"


def _examine(kind: str) -> tuple[dict[str, Any], list[str]]:
    import torch
    from architectures import battery

    torch.set_num_threads(1)
    examined = battery.examine(kind)
    return examined.row, examined.wrong


def main() -> None:
    """Write the table, or say what is wrong."""
    sys.path.insert(0, str(ROOT / "tests"))
    import transformers
    from architectures import battery

    kinds = battery.types()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(_examine, kinds, chunksize=4))
    wrong = [f"{row['type']}: {one}" for row, found in results for one in found]
    if wrong:
        sys.exit("\n".join(wrong))
    lines = ",\n".join(json.dumps(row) for row, _ in results)
    head = f'{{"schema_version": 1, "transformers": "{transformers.__version__}", "types": [\n'
    TARGET.write_text(f"{head}{lines}\n]}}\n", encoding="utf-8")
    supported = sum(row["status"] == "supported" for row, _ in results)
    print(f"{supported} of {len(kinds)} types supported: {TARGET}")


if __name__ == "__main__":
    main()
