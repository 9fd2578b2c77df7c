"""All of `distviz whatif` on a saved run, whole process: wall clock and processor time.

python tests/benchmarks/whatif.py path/to/run
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

TIMES = 5


def main() -> None:
    """Print the least of some tries, with and without figures."""
    with tempfile.TemporaryDirectory() as folder:
        for note, more in (("with figures", []), ("without", ["--no-figures"])):
            command = [sys.executable, "-m", "distviz", "whatif", sys.argv[1], "--quiet", "--force"]
            walls, processors = [], []
            for _ in range(TIMES):
                before, start = os.times(), time.perf_counter()
                subprocess.run([*command, *more, "--out", f"{folder}/w"], check=True, stdout=-3)
                walls.append(time.perf_counter() - start)
                after = os.times()
                processors.append(
                    after.children_user
                    + after.children_system
                    - before.children_user
                    - before.children_system
                )
            print(f"{note}: {min(walls):.1f} s, of processor time {min(processors):.1f} s")


main()
