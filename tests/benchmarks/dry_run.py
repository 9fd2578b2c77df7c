"""The estimate of `distviz run --dry-run` against the run: counts, memory and disk.

python tests/benchmarks/dry_run.py [MODEL] [FLAGS...]    (the embedded demo without MODEL)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Print estimated and measured numbers, a line each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "distviz", "run", *sys.argv[1:], "--out", str(out)]
        done = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, check=True)
        estimate = json.loads(done.stdout)
        process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(status)
        text = json.loads((out / "run.json").read_text())["text"]
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    for name in ("windows", "tokens"):
        print(f"{name:<10} {estimate['measurements'][0]['text'][name]:8,}     {text[name]:8,}")
    memory = (estimate["memory_bytes"] + estimate["library_bytes"]) / 1e6
    print(f"memory     {memory:8.0f} MB  {usage.ru_maxrss * 1024 / 1e6:8.0f} MB")
    print(f"disk       {estimate['disk_bytes'] / 1e6:8.2f} MB  {written / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
