"""Two processes of one thread each against one: tokens a second while it is measured.

python tests/benchmarks/processes.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PAIRS, TOKENS = 2, 4096


def measured(size: int, out: Path, text: Path) -> tuple[float, bytes]:
    """Return the seconds of measuring, gathering included, and the bytes of the counts."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(size), "--standalone"]
    command = [sys.executable, *start, "-m", "distviz", "run", sys.argv[1], "--text", str(text)]
    command += ["--no-figures", "--quiet", "--force", "--threads", "1", "--out", str(out)]
    command += ["--max-tokens", str(TOKENS), "--max-length", "256"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{size} processes failed:\n{done.stderr}")
    manifest = json.loads((out / "run.json").read_text())
    assert (manifest["processes"], manifest["threads"]) == (size, 1)
    return manifest["seconds"]["measure"], (out / "counts.parquet").read_bytes()


def main() -> None:
    """Print the ratio of the throughputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text(" ".join(f"The {i} brown foxes and {7 * i} lazy dogs." for i in range(900)))
        times = []
        for _ in range(PAIRS):
            (one, counts), (two, same) = (
                measured(size, folder / f"by-{size}", text) for size in (1, 2)
            )
            assert counts == same
            times.append((one, two))
            print(f"one {one:.1f} s, two {two:.1f} s, ratio {one / two:.2f}")
    ratio = statistics.median(one / two for one, two in times)
    print(f"two processes: {ratio:.2f} times the throughput of one, the same counts.parquet")


if __name__ == "__main__":
    main()
