"""All of `distviz run` against a script that loads the model and does two bare forward passes.

python tests/benchmarks/whole_run.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from timing import paired

TOKENS = 4096
SCRIPT = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
path = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
text = Path(sys.argv[2]).read_text()
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0, :4096]
ids = ids.view(2, 4, 512)
with torch.inference_mode():
    for _ in range(2):
        for batch in ids:
            model(batch, attention_mask=torch.ones_like(batch), use_cache=False)
"""


def main() -> None:
    """Print the ratio."""
    model = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        text, script = f"{folder}/text.txt", f"{folder}/bare.py"
        words = [f"The {i} quick brown foxes and {i * 7} lazy dogs." for i in range(900)]
        for path, content in ((text, " ".join(words)), (script, SCRIPT)):
            with open(path, "w") as file:
                file.write(content)
        ours = [sys.executable, "-m", "distviz", "run", model, "--text", text, "--quiet", "--force"]
        ours += ["--no-figures", "--max-tokens", str(TOKENS), "--out", f"{folder}/run"]
        bare = [sys.executable, script, model, text]
        first, second, ratio = paired(
            lambda: subprocess.run(ours, check=True, capture_output=True),
            lambda: subprocess.run(bare, check=True, capture_output=True),
            2,
        )
    print(f"distviz run {first:.1f} s, bare script {second:.1f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
