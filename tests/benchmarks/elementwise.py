"""Comparing two models value by value against two bare forward passes, 8 x 512 tokens.

python tests/benchmarks/elementwise.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import sys

import torch
from timing import paired

from distviz.data import make_batches, random_corpus
from distviz.hooks import PairRecorder
from distviz.measure import Measurement, PairedModels
from distviz.measure.forward import inputs_of
from distviz.models import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings

SITES = "residual,act,product,attention"


def main() -> None:
    """Print one line a pair of types."""
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} path/to/SmolLM2-135M-Instruct.gguf")
    for dtypes in (("float32", "float32"), ("float32", "bfloat16")):
        settings = RunSettings(sites=SITES, arm_layers="none")
        a, b = (
            Measurement.prepare(open_model(sys.argv[1], dtype=dtype, device="cpu"), settings)
            for dtype in dtypes
        )
        partners = dict(zip(b.watched, a.watched, strict=True))
        batches = make_batches(
            random_corpus(8, 512, seed=0, vocabulary=40_000, width=None, scale=1.0), 4
        )

        def compared(a: Measurement = a, b: Measurement = b, partners: dict = partners) -> None:
            pair = PairedModels(a, b, PairRecorder(partners), Progress())
            list(pair.run(dict(enumerate(batches))))

        def bare(a: Measurement = a, b: Measurement = b) -> None:
            with torch.inference_mode():
                for side in (a, b):
                    for batch in batches:
                        # The head on the last position only, as in the comparison.
                        side.opened.model(**inputs_of(batch, side.opened.model), logits_to_keep=1)

        first, second, ratio = paired(compared, bare, 3)
        print(
            f"{' and '.join(dtypes):20}: two bare passes {second:.2f} s, "
            f"compared {first:.2f} s, ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
