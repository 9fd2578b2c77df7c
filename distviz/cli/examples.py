"""The pages of the manual: what each command does, and examples, which the tests run."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXIT_CODES", "GROUPS", "PAGES", "ROOT", "CommandHelp", "Example"]

GROUPS = (
    "Commands that measure",
    "Commands that answer questions",
    "Commands that show results",
)
"""The headings of the commands in ``distviz --help``, in this order."""
_MEASURE, _ASK, _SHOW = GROUPS

EXIT_CODES = (
    "0 done; 1 it failed while running; 2 the request cannot be carried out as given; "
    "130 interrupted."
)


@dataclass(frozen=True)
class Example:
    """One command line, and what it is for."""

    purpose: str
    line: str


@dataclass(frozen=True)
class CommandHelp:
    """What the help of a command says beside its purpose (its docstring) and its options.

    Attributes
    ----------
    group
        One of `GROUPS`.
    description
        Paragraphs, apart by empty lines: what is measured, what is written.
    examples
        Command lines. ``model``, ``other-model``, ``some-moe`` and so on stand for what a user has.
    """

    group: str
    description: str
    examples: tuple[Example, ...]


def _page(group: str, description: str, *examples: tuple[str, str]) -> CommandHelp:
    paragraphs = (" ".join(part.split()) for part in description.split("\n\n"))
    return CommandHelp(group, "\n\n".join(paragraphs), tuple(Example(*one) for one in examples))


ROOT = _page(
    "",
    """MODEL is a Hugging Face folder or hub id, a .gguf file, a TOML that describes layers to
    build, or nothing: the embedded demo model. RUN is a folder that distviz wrote.

    distviz COMMAND --help explains a command, with examples.""",
    ("The embedded demo model, some seconds, offline:", "distviz run"),
    ("A model of yours, and its report:", "distviz run path/to/model --out runs/mine --report"),
    ("Which settings of ARM do not wreck it?", "distviz sweep path/to/model"),
    ("The findings again, from the folder alone:", "distviz show runs/mine"),
)

PAGES: dict[str, CommandHelp] = {
    "run": _page(
        _MEASURE,
        """Counts every value that leaves the activation functions of the MLPs (or passes at other
        --sites), in the model as it is and with ARM in --arm-layers: exact statistics, quantiles
        and histograms, paired, and what ARM does to loss and predictions.

        Writes a folder, --out or runs/MODEL-TIME: run.json, tables (stats.csv, histograms.csv,
        plans.csv, classes.csv, documents.parquet, channels.parquet), the counts themselves
        (counts.parquet) and figures/. Prints a table, and the path of the folder.

        A flag beats --config, which beats the default (in parentheses below).""",
        ("The embedded demo model:", "distviz run"),
        (
            "Own text, ARM in two layers:",
            "distviz run model --text prompts.jsonl --arm-layers 0,1 --c 0.32 --p1 90",
        ),
        (
            "Only observe, at several places:",
            "distviz run model --arm-layers none --sites gate,act,up,product,down",
        ),
        ("What would it take? Nothing is measured:", "distviz run model --dry-run"),
        (
            "A checkpoint larger than memory; go on where it was interrupted:",
            "distviz run model --stream --out runs/large --resume",
        ),
        ("For scripts, one JSON object:", "distviz run model --layers 0 --no-figures --json"),
    ),
    "compare": _page(
        _MEASURE,
        """A and B are run folders, models, or TOMLs of layers; models are measured first. Where a
        side is a run folder, its text and settings hold for the other. Layers are paired by
        index, or by relative depth where the models differ in it.

        Kolmogorov-Smirnov, Wasserstein and Jensen-Shannon distances come from the counts; whether
        a difference is more than noise is judged with the document as the unit: intervals,
        permutation tests, effect sizes, corrected over layers.

        Writes a folder: comparison.json, compare.csv, inference.csv, channels.csv, classes.csv,
        figures/, and both runs in a/ and b/.""",
        ("Two models on the same text:", "distviz compare model other-model"),
        ("A saved run against another model:", "distviz compare runs/mine other-model"),
        ("ARM off against ARM on:", "distviz compare runs/mine runs/mine --phase-b after"),
        (
            "SiLU against GELU, fed with the same random input:",
            "distviz compare silu.toml gelu.toml --out runs/activations",
        ),
        ("A PEFT adapter against its base:", "distviz compare base adapter"),
    ),
    "sweep": _page(
        _MEASURE,
        """Every combination of the lists below is a setting; without any list, c 0.05, 0.13, 0.32,
        1 times p1 75, 90, 99.5 in layer 0. --preset adds published settings. A row a setting tells
        how much moves, how many near-zero values are left, and what that costs: loss, KL
        divergence and top-1 agreement of the predictions. Recommended is the setting that removes
        most near-zero values within --budget-kl, with the command that uses it; or none, where
        none fits.

        Writes a folder: sweep.csv (mean and spread over --seeds), sweep_seeds.csv, sweep.json,
        figures/. A row equals distviz run with that setting.""",
        ("The usual settings:", "distviz sweep model"),
        (
            "A grid of your own, three seeds each:",
            "distviz sweep model --c 0.05,0.32 --p1 75,90 --seeds 3",
        ),
        ("One setting in each layer alone:", "distviz sweep model --by-layer --c 0.13"),
        (
            "The settings published for the model (else a proposal), beside two of your own:",
            "distviz sweep model --preset auto --c 0.13,0.32",
        ),
        (
            "ARM beside its control, in two layers or both:",
            "distviz sweep model --redistribution arm,noise --c 0.32 --arm-layers '0;1;0,1'",
        ),
    ),
    "filler": _page(
        _MEASURE,
        """The prompts (two dozen word problems, or --text with system and question) are measured
        without and with a run of meaningless tokens; only the prompts' own tokens are compared,
        prompt by prompt, by layer, by number of filler tokens and by distance from them, with
        what attention the own tokens keep.

        Writes a folder: filler.csv, attention.csv, positions.csv, tokens.parquet, figures/, and
        a run of the own tokens for each count.""",
        (
            "How does the change grow with the number of slashes?",
            "distviz filler model --counts 0,10,25,40,55,70",
        ),
        (
            "Random tokens instead of slashes, before the system prompt:",
            "distviz filler model --filler-kind random --filler-position start",
        ),
        (
            "Own prompts, the first two layers:",
            "distviz filler model --text prompts.jsonl --layers 0,1",
        ),
    ),
    "generate": _page(
        _MEASURE,
        """Prints both continuations with the same seed, how many tokens they share from the
        start, and the share of different 2-grams on each side. --quiet prints the continuation
        with ARM alone. Nothing is written. Where --preset auto finds no published settings, it
        proposes some from the prompt's own values and prints the evidence.""",
        ("The most likely tokens:", 'distviz generate model --prompt "2 + 2 ="'),
        (
            "Four samples of each side, another setting:",
            'distviz generate model --prompt "Anna had" --num-samples 4 --temperature 0.8 --c 0.32',
        ),
        (
            "ARM while the prompt is read only, not while tokens are written:",
            'distviz generate model --prompt "2 + 2 =" --on prefill',
        ),
    ),
    "inspect": _page(
        _ASK,
        """Reads the configuration alone, no weights: where the activation is, how it was found, and
        the names of the places for --sites. --architectures prints what is known of every model
        type of the installed transformers.""",
        ("The layer of the demo:", "distviz inspect"),
        ("Where are the experts?", "distviz inspect some-moe --layer 1"),
        ("Is a type of model supported?", "distviz inspect --architectures"),
        ("For scripts:", "distviz inspect model --json"),
    ),
    "whatif": _page(
        _ASK,
        """Answers from the counts of a saved run, equal to trying it on the values themselves:
        which threshold makes how many zeros and what that keeps; what int8, int4 and fp8 lose, by
        layer, site and phase, with the range set by the maximum, a percentile or the least error.

        Writes RUN-whatif, or --out: whatif.csv, whatif.json, figures/.""",
        ("Everything:", "distviz whatif runs/mine"),
        (
            "What does half of the values as zeros cost?",
            "distviz whatif runs/mine --sparsity 50 --formats none",
        ),
        (
            "4-bit integers in layer 0, the best range:",
            "distviz whatif runs/mine --sparsity none --formats int4 --ranges mse --layers 0",
        ),
    ),
    "show": _page(
        _SHOW,
        """Reads the folder alone: no model, no torch. Of a run it shows the table, curves by depth
        and, with --layers, how the values of a layer are distributed.""",
        ("A run, or any other folder:", "distviz show runs/mine"),
        ("Two layers closely:", "distviz show runs/mine --layers 0,1"),
        ("For scripts:", "distviz show runs/mine --json"),
    ),
    "report": _page(
        _SHOW,
        """The page opens from disk and asks nothing of the network. Several folders follow one
        another in it. Writes --out, or report.html in the first folder.""",
        ("The report of a run:", "distviz report runs/mine"),
        ("Somewhere else:", "distviz report runs/mine --out report.html"),
        ("Over an older one:", "distviz report runs/mine --force --quiet"),
    ),
    "export": _page(
        _SHOW,
        """Reads the folder alone: no model, no torch. Writes RUN-export, or --out, and prints the
        files that it wrote.""",
        (
            "Figures for a paper, tables to compute with:",
            "distviz export runs/mine --figures pdf,svg --tables parquet",
        ),
        ("One layer, tables only:", "distviz export runs/mine --layers 0 --figures none"),
        (
            "Every figure with a logarithmic axis:",
            "distviz export runs/mine --figures png --tables none --log --out figures",
        ),
    ),
}
"""Command -> page, in the order of ``distviz --help``."""
