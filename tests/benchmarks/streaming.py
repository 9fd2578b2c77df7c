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
    """Print streamed against plain in one process, in turn: opening, measuring, letting go."""
    import distviz

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        convert(gguf, folder)
        words = [f"The {i} quick brown foxes and {i * 7} lazy dogs." for i in range(900)]
        seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for turn in range(4):
            for stream, known in seconds.items():
                clocks = time.perf_counter(), time.process_time()
                options = {"max_tokens": 4096, "threads": 1, "stream": stream}
                distviz.run(str(folder), text=[" ".join(words)], **options).save(
                    Path(place) / str(stream), force=True
                )
                spent = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
                if turn:  # the first compiles
                    known.append(spent)
                    print(f"stream={stream}: {spent[0]:.1f} s, CPU {spent[1]:.1f} s", flush=True)
        for number, kind in enumerate(("wall clock", "CPU time")):
            pairs = zip(seconds[True], seconds[False], strict=True)
            print(kind, *(f"{a[number] / b[number]:.3f}" for a, b in pairs))
        a, b = (Path(place) / str(stream) / "counts.parquet" for stream in (True, False))
        print("same counts:", a.read_bytes() == b.read_bytes())


def peak(place: Path) -> None:
    """Print the peak memory of a streamed run on 6 GB, and the bound."""
    from support.synthetic_checkpoints import forget, write_llama

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
