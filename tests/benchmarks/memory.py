"""Peak memory of `distviz run` from 2 k to 64 k tokens, same batch size.

python tests/benchmarks/memory.py [MODEL]    (the embedded demo without MODEL)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

SIZES = (2048, 65536)


def peak_megabytes(command: list[str]) -> float:
    """Run a command and return its peak resident memory, as the operating system counts it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def main() -> None:
    """Print both peaks and the difference, for one long document and for many short ones."""
    model = sys.argv[1:2]
    with tempfile.TemporaryDirectory() as folder:
        sentence = "Tom has 3 apples and 4 pears, so he has 7 pieces of fruit. "
        kinds = {"one.txt": sentence * 9000, "many.jsonl": ""}
        kinds["many.jsonl"] = ('{"text": "' + sentence * 12 + '"}\n') * 800
        for name, content in kinds.items():
            path = f"{folder}/{name}"
            with open(path, "w") as file:
                file.write(content)
            peaks = []
            for size in SIZES:
                command = [sys.executable, "-m", "distviz", "run", *model, "--text", path]
                command += ["--max-tokens", str(size), "--out", f"{folder}/run", "--force"]
                peaks.append(peak_megabytes([*command, "--no-figures", "--quiet"]))
            print(f"{name}: {peaks[0]:.0f} MB, {peaks[1]:.0f} MB, {peaks[1] - peaks[0]:+.0f} MB")


if __name__ == "__main__":
    main()
