"""A sweep of one format in each layer alone against as many bare passes from that layer on.

python tests/benchmarks/layer_sweep_cost.py path/to/SmolLM2-135M-Instruct.gguf [FORMAT] [SITE]
"""

from __future__ import annotations

import sys

import torch
from timing import paired

from distviz import measure as collect
from distviz.data.corpus import make_batches
from distviz.data.documents import read_documents
from distviz.measure.forward import inputs_of
from distviz.models.architectures import main_stack
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies import sweep as sweeps
from distviz.studies.layer_cache import LayerCache, find_layers
from distviz.studies.sweep_grid import SweepGrid

TOKENS = 2048


def main() -> None:
    """Print the ratio."""
    name, site = [*sys.argv[2:], "int8-token", "product"][:2] if sys.argv[2:] else DEFAULT
    settings = RunSettings(model=sys.argv[1], max_tokens=TOKENS, batch_size=4)
    opened = collect.open_from(settings, Progress())
    words = [f"The {i} quick brown foxes and {i * 7} lazy dogs." for i in range(900)]
    corpus = collect.corpus_of(read_documents([" ".join(words)]), opened, settings)
    batches = make_batches(corpus, settings.batch_size)
    lists = SweepGrid(redistribution=f"quantize:{name}", at=site)
    grid = sweeps.every_setting(opened, lists, settings, is_by_layer=True)
    grid = [one for one in grid if len(one.layers) == 1]
    cache = LayerCache(find_layers(opened.model, opened.mlps, main_stack(opened.mlps)))

    def bare() -> None:
        starts = [one.layers[0] - 1 for one in grid]
        with torch.inference_mode():
            for batch in batches:
                inputs = inputs_of(batch, opened.model)
                with cache.recording({*starts} - {-1}):
                    opened.model(**inputs)
                for start in starts:
                    with cache.start_after(start):
                        opened.model(**inputs)

    def swept() -> None:
        sweeps.sweep_model(opened, corpus, settings, grid, [0], 0.05, Progress(), is_by_layer=True)

    first, second, ratio = paired(swept, bare, 2)
    print(
        f"{name} at {site} in each of {len(grid)} layers {first:.1f} s, as many bare passes from "
        f"the layer on {second:.1f} s, ratio {ratio:.2f}"
    )


DEFAULT = ("int8-token", "product")

if __name__ == "__main__":
    main()
