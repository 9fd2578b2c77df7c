"""Streaming: its time against a plain run, and its peak memory on a checkpoint of 6 GB.

python tests/benchmarks/streaming.py ratio path/to/SmolLM2-135M-Instruct.gguf
python tests/benchmarks/streaming.py peak [FOLDER]    (written there, 6.1 GB, and removed)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

LAYERS, HIDDEN, INTERMEDIATE = 25, 3072, 10240
LIBRARIES_MB = 450


def measure(folder: Path, out: Path, *options: str) -> tuple[float, float, float]:
    """Run once; return seconds in all, seconds measuring, and peak MB by the operating system."""
    import json

    command = [sys.executable, "-m", "distviz", "run", str(folder), "--no-figures", "--force"]
    command += ["--out", str(out), "--json", *options]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    seconds = json.loads(told)["seconds"]["measure"]
    return time.perf_counter() - started, seconds, usage.ru_maxrss / 1024


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF as a safetensors folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    plain = AutoModelForCausalLM.from_config(read.config)
    plain.load_state_dict(read.state_dict())
    for model in (read, plain):  # transformers does not save what it read from a GGUF
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def ratio(gguf: Path) -> None:
    """Print streamed against plain, whole process, three pairs in turn."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        convert(gguf, folder)
        seconds: dict[str, list[float]] = {"--stream": [], "--no-stream": []}
        measure(folder, Path(place) / "run", "--no-stream", "--max-tokens", "512")
        for _ in range(3):
            for option, known in seconds.items():
                whole = measure(folder, Path(place) / option, option, "--max-tokens", "4096")
                known.append(whole[0])
                print(option, *(f"{number:.1f}" for number in whole), flush=True)
        pairs = zip(seconds["--stream"], seconds["--no-stream"], strict=True)
        print("ratios", *(f"{a / b:.2f}" for a, b in pairs))
        a, b = (Path(place) / option / "counts.parquet" for option in seconds)
        print("same counts:", a.read_bytes() == b.read_bytes())


def peak(place: Path) -> None:
    """Print the peak memory of a streamed run on 6 GB, and the bound."""
    from synthetic_checkpoints import forget, write_llama

    folder = place / "six-gb"
    try:
        write_llama(folder, layers=LAYERS, hidden=HIDDEN, intermediate=INTERMEDIATE, shards=12)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        layer = (size - 2 * 2048 * HIDDEN * 2) / LAYERS
        for tokens, memory in ((512, "4000"), (512, "0")):
            forget(folder)
            options = ["--stream", "--max-tokens", str(tokens), "--stream-memory", memory]
            whole = measure(folder, place / "run", *options)
            # Two calls a batch, four windows a batch, at most all tokens, bfloat16.
            hidden = 2 * tokens * HIDDEN * 2 if memory != "0" else 0
            bound = (2 * 2048 * HIDDEN * 2 + 2 * layer + hidden) / 1e6 + 700
            print(
                f"{size / 1e9:.2f} GB, --stream-memory {memory}: {whole[0]:.0f} s, peak "
                f"{whole[2] - LIBRARIES_MB:.0f} MB above the libraries, bound {bound:.0f} MB",
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(place / "run", ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] == "ratio":
        ratio(Path(sys.argv[2]))
    else:
        peak(Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()))
