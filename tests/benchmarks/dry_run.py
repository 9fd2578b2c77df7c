"""What `distviz run --dry-run` foretells against what the run then takes.

python tests/benchmarks/dry_run.py [MODEL] [FLAGS...]    (the embedded demo without MODEL)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Print foretold and measured, a line each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "distviz", "run", *sys.argv[1:], "--out", str(out)]
        told = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, check=True)
        plan = json.loads(told.stdout)
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(status)
        seconds = time.perf_counter() - started
        manifest = json.loads((out / "run.json").read_text())
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    parts = plan["measurements"][0]["seconds"]["parts"]
    forward = sum(parts[name] for name in ("forward", "counting", "redistribution", "effect"))
    low, high = plan["seconds"]["low"], plan["seconds"]["high"]
    memory = (plan["memory_bytes"] + plan["library_bytes"]) / 1e6
    print(f"measuring  {forward:8.1f} s   {manifest['seconds']['measure']:8.1f} s")
    print(f"in all     {low:.0f} to {high:.0f} s   {seconds:8.1f} s")
    print(f"memory     {memory:8.0f} MB  {usage.ru_maxrss * 1024 / 1e6:8.0f} MB")
    print(f"disk       {plan['disk_bytes'] / 1e6:8.2f} MB  {written / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
