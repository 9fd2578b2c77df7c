"""Descriptions and examples of the commands; the tests run the examples."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = (
    "Commands that measure",
    "Commands that analyze",
    "Commands that show results",
)
"""The headings of the commands in ``distviz --help``, in this order."""
_MEASURE, _ANALYZE, _SHOW = GROUPS

EXIT_CODES = (
    "0 success; 1 failure while running; 2 invalid request, nothing was measured; 130 interrupted."
)


@dataclass(frozen=True)
class Example:
    """A command line and its purpose."""

    purpose: str
    line: str


@dataclass(frozen=True)
class CommandHelp:
    """What help prints of a command besides its summary and its options.

    Attributes
    ----------
    group
        One of `GROUPS`.
    description
        What is measured and written; paragraphs are separated by empty lines.
    examples
        Command lines; ``model``, ``other-model``, ``some-moe`` and so on are placeholders.
    """

    group: str
    description: str
    examples: tuple[Example, ...]


def _page(group: str, description: str, *examples: tuple[str, str]) -> CommandHelp:
    paragraphs = (" ".join(part.split()) for part in description.split("\n\n"))
    return CommandHelp(group, "\n\n".join(paragraphs), tuple(Example(*one) for one in examples))


ROOT = _page(
    "",
    """MODEL is a Hugging Face folder or hub ID, a .gguf file, a TOML file that describes layers to
    build, or omitted: the embedded demo model. RUN is a folder that distviz wrote.

    distviz COMMAND --help explains a command, with examples.""",
    ("The embedded demo model, offline, in a few seconds:", "distviz run"),
    ("Your own model, with a report:", "distviz run path/to/model --out runs/mine --report"),
    ("Find ARM settings that keep the model intact:", "distviz sweep path/to/model"),
    ("Show the results again, from the folder alone:", "distviz show runs/mine"),
)

PAGES: dict[str, CommandHelp] = {
    "run": _page(
        _MEASURE,
        """Counts every output value of the MLP activation functions (or of other --sites), in the
        unchanged model and with ARM in --arm-layers: exact statistics, quantiles and histograms,
        paired by value, and the effect of ARM on loss and predictions.

        Writes a folder, --out or runs/MODEL-TIME: run.json, tables (stats.csv, histograms.csv,
        plans.csv, classes.csv, documents.parquet, channels.parquet), the counts (counts.parquet)
        and figures/. Prints a table and the path of the folder.

        Options override --config, which overrides the defaults.""",
        ("The embedded demo model:", "distviz run"),
        (
            "Your own text, ARM in two layers:",
            "distviz run model --text prompts.jsonl --arm-layers 0,1 --c 0.32 --p1 90",
        ),
        (
            "Observe several sites, without ARM:",
            "distviz run model --arm-layers none --sites gate,act,up,product,down",
        ),
        ("Estimate memory and disk without measuring:", "distviz run model --dry-run"),
        (
            "A checkpoint larger than memory; resume after an interruption:",
            "distviz run model --stream --out runs/large --resume",
        ),
        ("One JSON object for scripts:", "distviz run model --layers 0 --no-figures --json"),
    ),
    "compare": _page(
        _MEASURE,
        """A and B are run folders, models, or TOML files of settings; models are measured first. If
        one side is a run folder, the other is measured with its text and settings. Layers are
        paired by index, or by relative depth if the models differ in depth. Options --b-… hold for
        B alone, so that one model is compared in two ways.

        Kolmogorov-Smirnov, Wasserstein and Jensen-Shannon distances are computed from the counts.
        Statistical tests use the document as the unit: confidence intervals, permutation tests and
        effect sizes, corrected for the number of layers.

        Writes a folder: comparison.json, compare.csv, inference.csv, channels.csv, classes.csv,
        output_documents.parquet, figures/, and both runs in a/ and b/.""",
        ("Two models on the same text:", "distviz compare model other-model"),
        ("A saved run and another model:", "distviz compare runs/mine other-model"),
        ("ARM off and ARM on:", "distviz compare runs/mine runs/mine --phase-b after"),
        (
            "SiLU and GELU, with the same random input:",
            "distviz compare silu.toml gelu.toml --out runs/activations",
        ),
        ("A base model and its PEFT adapter:", "distviz compare base adapter"),
        ("One model in two ways:", "distviz compare model model --b-dtype bf16"),
    ),
    "sweep": _page(
        _MEASURE,
        """Measures every combination of the lists below; without lists, c 0.05, 0.13, 0.32, 1 with
        p1 75, 90, 99.5 in layer 0. --preset adds published settings. Each row reports the fraction
        of values that move, the near-zero values that remain, and the cost: loss, KL divergence
        and top-1 agreement of the predictions. The recommended setting removes most near-zero
        values within --budget-kl; it is printed with the command that uses it.

        Writes a folder: sweep.csv (mean and spread over --seeds), sweep_seeds.csv, sweep.json,
        figures/. A row equals distviz run with the same setting.

        With --allocate: measures every level of zeros, or every format, in each layer alone, takes
        the cheapest step by step, and measures the whole beside the same everywhere. Writes
        allocation.csv and uniform.csv, for --redistribution threshold:FILE and quantize:FILE.""",
        ("The default grid:", "distviz sweep model"),
        (
            "Your own grid, three seeds each:",
            "distviz sweep model --c 0.05,0.32 --p1 75,90 --seeds 3",
        ),
        (
            "Settings published for the model (otherwise proposed ones), and two of your own:",
            "distviz sweep model --preset auto --c 0.13,0.32",
        ),
        (
            "ARM and its control, in two layers or both:",
            "distviz sweep model --redistribution arm,noise --c 0.32 --arm-layers '0;1;0,1'",
        ),
        (
            "What number formats cost in front of the down projection, layer by layer:",
            "distviz sweep model --by-layer --redistribution quantize:int8-token --at product",
        ),
        (
            "Which layers take how many zeros, if half of all values are to be zero:",
            "distviz sweep model --allocate 50% --at act",
        ),
    ),
    "filler": _page(
        _MEASURE,
        """Measures the prompts (24 word problems, or --text with system and question) with and
        without filler tokens. Only the prompts' own tokens are compared: by prompt, layer,
        number of filler tokens and distance from them, with the attention that they receive.

        Writes a folder: filler.csv, attention.csv, positions.csv, tokens.parquet, figures/, and
        a run of the prompts' own tokens for each count.""",
        (
            "How the change grows with the number of slashes:",
            "distviz filler model --counts 0,10,25,40,55,70",
        ),
        (
            "Random tokens instead of slashes, before the system prompt:",
            "distviz filler model --filler-kind random --filler-position start",
        ),
        (
            "Your own prompts, the first two layers:",
            "distviz filler model --text prompts.jsonl --layers 0,1",
        ),
    ),
    "generate": _page(
        _MEASURE,
        """Prints both continuations, sampled with the same seed, the number of tokens that agree
        from the start, and the share of distinct 2-grams of each. --quiet prints only the
        continuation with ARM. Writes no files. If --preset auto finds no published settings, it
        proposes some from the activations of the prompt and prints the evidence.""",
        ("The most likely tokens:", 'distviz generate model --prompt "2 + 2 ="'),
        (
            "Four samples each, another setting:",
            'distviz generate model --prompt "Anna had" --num-samples 4 --temperature 0.8 --c 0.32',
        ),
        (
            "ARM only during prefill, not during decoding:",
            'distviz generate model --prompt "2 + 2 =" --on prefill',
        ),
    ),
    "inspect": _page(
        _ANALYZE,
        """Reads only the configuration, no weights, and prints the activation function, how it was
        found, and the names for --sites. --architectures prints the support of every model type in
        the installed transformers.""",
        ("The layer of the demo model:", "distviz inspect"),
        ("The experts of a mixture-of-experts model:", "distviz inspect some-moe --layer 1"),
        ("Which model types are supported:", "distviz inspect --architectures"),
        ("For scripts:", "distviz inspect model --json"),
    ),
    "whatif": _page(
        _ANALYZE,
        """Uses the counts of the run; the results are those of the values themselves. For each
        fraction of zeros, the threshold and its error; for int8, int4 and fp8, the error by layer,
        site and phase, with the range set by the maximum, a percentile or the least error. The
        error of the values (SQNR) is not the cost to the model; where few massive values decide it,
        a warning says so, and every number stands beside that without the largest 0.01 %.

        Writes RUN-whatif, or --out: whatif.csv, whatif.json, figures/.""",
        ("Everything:", "distviz whatif runs/mine"),
        (
            "The error of setting half of the values to zero:",
            "distviz whatif runs/mine --sparsity 50 --formats none",
        ),
        (
            "4-bit integers in layer 0, with the best range:",
            "distviz whatif runs/mine --sparsity none --formats int4 --ranges mse --layers 0",
        ),
    ),
    "show": _page(
        _SHOW,
        """Reads only the folder, no model. For a run it shows the table, curves by layer and, with
        --layers, the histograms of a layer; with --channels, which channels of each layer are
        dead, always on, or the largest.""",
        ("A run, or any other result:", "distviz show runs/mine"),
        ("Two layers in detail:", "distviz show runs/mine --layers 0,1"),
        ("For scripts:", "distviz show runs/mine --json"),
    ),
    "report": _page(
        _SHOW,
        """The page needs no network access. It shows several folders one after another. Writes
        --out, or report.html in the first folder.""",
        ("The report of a run:", "distviz report runs/mine"),
        ("In another place:", "distviz report runs/mine --out report.html"),
        ("Replace an older report:", "distviz report runs/mine --force --quiet"),
    ),
    "export": _page(
        _SHOW,
        """Reads only the folder, no model. Writes RUN-export, or --out, and prints the files that
        it wrote.""",
        (
            "Figures for a paper and tables to compute with:",
            "distviz export runs/mine --figures pdf,svg --tables parquet",
        ),
        ("One layer, tables only:", "distviz export runs/mine --layers 0 --figures none"),
        (
            "All figures with a logarithmic axis:",
            "distviz export runs/mine --figures png --tables none --log --out figures",
        ),
    ),
}
"""Command -> page, in the order of ``distviz --help``."""
