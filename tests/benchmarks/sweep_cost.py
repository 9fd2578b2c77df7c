"""A sweep of 4 x 3 settings against as many bare forward passes and one, in one process.

python tests/benchmarks/sweep_cost.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import sys

import torch
from timing import paired

from distviz import measure as collect
from distviz.data.corpus import make_batches
from distviz.data.documents import read_documents
from distviz.measure.forward import inputs_of
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies import sweep as sweeps
from distviz.studies.sweep_grid import SweepGrid, combine

TOKENS = 2048
GRID = SweepGrid(c="0.05,0.13,0.32,1", p1="75,90,99.5")


def main() -> None:
    """Print the ratio."""
    settings = RunSettings(model=sys.argv[1], max_tokens=TOKENS, batch_size=4)
    opened = collect.open_from(settings, Progress())
    words = [f"The {i} quick brown foxes and {i * 7} lazy dogs." for i in range(900)]
    corpus = collect.corpus_of(read_documents([" ".join(words)]), opened, settings)
    batches = make_batches(corpus, settings.batch_size)
    grid = combine(GRID, settings, sweeps.layer_count(opened))

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                for _ in range(1 + len(grid)):
                    opened.model(**inputs_of(batch, opened.model))

    def swept() -> None:
        sweeps.sweep_model(opened, corpus, settings, grid, [0], 0.05, Progress())

    first, second, ratio = paired(swept, bare, 2)
    print(f"sweep of 12 settings {first:.1f} s, 13 bare passes {second:.1f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
