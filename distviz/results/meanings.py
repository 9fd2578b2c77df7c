"""What the columns of each table mean: for docs/files.md, the report and notebooks.

A test requires that the tables of docs/files.md say the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from distviz.results.study_meanings import STUDIES

MEANINGS: dict[str, dict[str, str]] = {
    "shared": {
        "layer, site": "the layer's index; the site",
        "phase": "before ARM, after it, …",
        "module": "path of the module, which distinguishes shared from routed experts",
        "stack": "decoder, encoder, or the name of a tower",
    },
    "pairs": {
        "layer_a, layer_b, phase_a, phase_b": "the layer's index and the phase, of A and of B",
        "module_a, module_b": "path of the module of A and of B",
    },
    "stats": {
        "count, nan, inf, zeros": "finite values, and how many are not; zeros are in count",
        "min, max, mean, std, skewness, kurtosis": "of x; population std, excess kurtosis",
        "p0_1, p1, p5, p25, p50, p75, p95, p99, p99_9": (
            "percentiles by linear interpolation, NumPy's default"
        ),
        "mad": "lower median of abs(abs(x) − m), m the lower median of abs(x)",
        "eps": (
            "1.4826 · mad · c of the values without ARM, pooled over documents; the same for every "
            "phase of that layer and site"
        ),
        "near_zero": "share of abs(x) < eps, the paper's relative sparsity",
        "l1, l2, gini": "sum of abs(x); root of the sum of squares; Gini coefficient of abs(x)",
        "entropy_bits": "Shannon entropy of the values rounded to bf16",
        "mean_abs_change": (
            "with ARM, on phase after: mean of abs(after − before) over pairs of finite values of "
            "the same token and channel; empty for routed experts, and where the values of a batch "
            "exceed 512 MiB in all; a warning names these places"
        ),
    },
    "histograms": {
        "bin_left, bin_right": (
            "the edges; the left edge belongs to the bin, the right edge to the next"
        ),
        "count": (
            "values in the bin; the phases of a layer share their bins, and every value is in one"
        ),
        "density": "count / (all values · width of the bin)",
    },
    "plans": {
        "site": "where values were redistributed, see --at",
        "document, window, pass": "which sequence, and which repetition with --passes",
        "n": "finite values in the sequence",
        "eps, near": "threshold, and share of abs(x) below it",
        "fraction, k": "requested share of values to move, and number of values that moved",
        "upper, lower": "bounds of the new values of either sign",
    },
    "classes": {
        "token_class, tokens": (
            "the class, role or positions in the window, and how many counted tokens are in it"
        ),
        "near_zero": "share of abs(x) < eps, eps of the whole layer",
        "partition": (
            "class, role or position: every counted token is once in each; select one before adding"
        ),
    },
    "documents": {
        "document": "its number in the text, from 0",
        "count, mean, std, l1, l2, gini": "as in stats.csv, of this document alone",
        "absmax": "its largest abs(x), of fp32 values rounded to bf16",
        "eps, near_zero": "eps is that of the document's own before, for all its phases",
    },
    "channels": {
        "channel": "its index in the dimension of the channels",
        "count, mean, std, min, max": "as in stats.csv, of this channel alone",
        "absmax": "the larger of abs(min) and abs(max)",
        "zeros, positive": "how many values are exactly 0, and how many are above 0",
        "kurtosis": "with --channels: excess kurtosis; empty where all values are equal",
        "top": (
            "with --channels: in how many tokens this channel has the largest abs(x), the first "
            "such channel of a token"
        ),
        "channel_dim": (
            "dimension of the tensor that holds the channels: 1 after a convolution, -1 is the "
            "last; absent where it is the last everywhere"
        ),
    },
    "experts": {
        "expert, tokens": "its index, and how many tokens were routed to it; 0: none",
        "count, nan, inf, zeros, min, max, mean, std": (
            "as in stats.csv, of this expert alone; exact"
        ),
        "near_zero": "share of abs(x) < eps, eps of the whole layer; estimated",
        "near_zero_low, near_zero_high": "the true share lies between them",
    },
    "extremes": {
        "rank, value": "1 is the largest abs(x) of the place; x itself, at most 20 rows",
        "document, window, position": (
            "where: the document, its window, and the token's position in the window, from 0"
        ),
        "token, token_id": "the token there: its text, control characters as escapes; its id",
        "channel": "its index in the last dimension",
        "ratio": (
            "abs(x) over the lower median of abs(x) of the place (fp32: of values rounded to bf16)"
        ),
        "massive": "whether it is a massive activation: abs(x) > 100 and ratio > 1,000",
        "expert": "the expert that the token was routed to; only for routed experts",
    },
    "formats": {
        "format, rotation": (
            "the number format (docs/maths.md), and what was done to each token before: none or "
            "hadamard; the other columns are of the rotated values"
        ),
        "sqnr_db": (
            "10 log10(sum(x²) / sum of squared errors): inf (null in JSON) where nothing is lost, "
            "empty where every value is zero; no cost to the model"
        ),
        "error_share": "sum of squared errors over sum(x²); large values have most of both",
        "token_error_share": "the same share within each token, the mean over tokens",
        "zeroed": "share of values that become zero and were not",
        "clipped": "share of values that exceed the range of the format after rounding",
        "max_p1, max_p50, max_p99, max_p100": (
            "percentiles of the largest abs(x) of what shares a scale (a block, token, channel or "
            "window), linear interpolation of values rounded to bf16"
        ),
        "count, error": "finite values, and the sum of squared errors",
    },
    "run tokens": {
        "document, window, position": (
            "where: the document, its window, and the token's position in the window, from 0"
        ),
        "token, token_id": "its text, control characters as escapes; its id",
        "absmax, channel": "the largest abs(x) of the token, and the first channel that has it",
        "l2": "root of the sum of squares of the token",
        "absmax_ratio, l2_ratio": (
            "both over their lower median, that of all tokens of the layer, site and phase"
        ),
    },
    "counts": {
        "token_class": "the class; all where classes were not separated",
        "value, count": "the value (float32), and how often it occurred",
    },
    "token_groups": {
        "partition": "role or position",
        "token_class": "the role, or the positions in the window",
        "value, count": "abs(x) (float32), and how often it occurred",
    },
    "compare": {
        "ks, wasserstein, wasserstein_normalized, js_divergence": (
            "distances; the third is divided by the standard deviation of A"
        ),
        "std_ratio": "standard deviation of B over that of A",
        "near_zero_a, near_zero_b": "shares, both with A's pooled eps",
        "gini_a, gini_b": "of abs(x)",
        "p1_shift, p50_shift, p99_shift": "percentile of B minus that of A",
    },
    "inference": {
        "quantity": (
            "log_variance_ratio or near_zero_difference of a pair; loss_difference or kl of the "
            "output (layer −1, site output); with --elementwise sqnr_db of a place, whose p-value "
            "is that of an error that rounding explains"
        ),
        "estimate, ci_low, ci_high": (
            "mean over documents, and its 95 % interval; empty below 8 documents"
        ),
        "p_value, p_adjusted": "by permutation; corrected over the layers",
        "effect_size": "Cohen's d (paired) or Hedges' g",
        "documents, paired, documents_a, documents_b": (
            "pairs or the smaller side; whether both saw the same documents; each side"
        ),
        "zero_variance": "documents excluded from the log ratio because a side is constant",
        "approximate, reason": (
            "whether the interval covers less than 95 %, and why; or why it is withheld"
        ),
    },
    "output_documents": {
        "document, tokens": "its number in the text, and how many predicted tokens count",
        "loss_a, loss_b": "mean of −ln p(next token) of each side, nats",
        "kl": "mean of KL(A‖B) of the next-token distributions, nats",
        "top1_agreement": "share of the tokens for which both have the same most likely token",
    },
    "comparison classes": {
        "token_class": "the class, role or positions in the window",
        "tokens_a, tokens_b": "how many counted tokens of each side are in it",
        "near_zero_a, near_zero_b": "shares, both with A's pooled eps",
        "partition": (
            "class, role or position: every counted token is once in each; select one before adding"
        ),
    },
    "comparison channels": {
        "channel": "its index",
        "std_a, std_b, mean_a, mean_b, absmax_a, absmax_b": "of the channel on each side",
        "outlier_a, outlier_b": "its absmax over the median absmax of that side",
        "change": (
            "the largest of abs(log std ratio), abs(mean shift) / std of A, abs(log absmax ratio)"
        ),
    },
    "elementwise": {
        "sqnr_db, sqnr_low, sqnr_high": (
            "10 log10(sum(a²) / sum((b − a)²)), and its 95 % interval with documents as the unit: "
            "inf (null in JSON) where all values are equal; no interval below 8 documents"
        ),
        "approximate": "whether the interval covers less than 95 %, as in inference.csv",
        "relative_error, cosine": (
            "norm of b − a over that of a (empty where a is zero and b is not), and the cosine of "
            "both, of all values of the place"
        ),
        "cosine_tokens": "mean over tokens of the cosine of a token's values",
        "mean_abs_difference, max_abs_difference": "mean and largest abs(b − a)",
        "max_document, max_window, max_position, max_token, max_channel": (
            "where abs(b − a) is largest: document, window, position in the window, text of the "
            "token (control characters as escapes), channel; empty where all values are equal"
        ),
        "tokens, documents": "how many tokens were compared, in how many documents",
        "left_out": "pairs of values left out because one is not finite",
        "local_sqnr_db, local_relative_error": (
            "with --local: the same where the layer of B reads what the layer of A reads, so the "
            "error that the layer itself makes"
        ),
    },
    "elementwise_documents": {
        "document, count": "its number in the text, from 0; the values compared",
        "sqnr_db, relative_error, cosine, mean_abs_difference, local_sqnr_db": (
            "as in elementwise.csv, of this document alone"
        ),
    },
    "elementwise_channels": {
        "rank, channel": "1 is the largest share of the error, 50 are listed; its index",
        "error_share": "of sum((b − a)²) of the place, the part of this channel",
        "energy_share": "of sum(a²) of the place, the part of this channel",
        "relative_error": "norm of b − a over that of a, of this channel alone",
    },
    "elementwise_tokens": {
        "rank": "1 is the largest share of the error, 50 are listed",
        "document, window, position, token": (
            "which token: document, window, position in the window, text with control characters "
            "as escapes"
        ),
        "error_share": "of sum((b − a)²) of the place, the part of this token",
        "relative_error, cosine": "of the values of this token alone",
    },
} | STUDIES
"""By table: names of columns, separated by commas, and what they mean."""
_ALSO = {
    "filler": ("inference",),
    "positions": ("filler", "inference"),
    "drift": ("inference",),
    "attention": ("filler",),
    "tokens": ("filler",),
    "sweep_seeds": ("sweep",),
    "uniform": ("allocation",),
    "allocation_costs": ("sweep", "allocation"),
    "allocation_curve": ("sweep",),
    "comparison classes": ("pairs",),
    "comparison channels": ("pairs",),
    "compare": ("pairs",),
    "inference": ("pairs",),
}
"""Tables whose columns another table has, too."""
_SPREAD = "_spread"


def meanings_of(table: str, columns: Iterable[str]) -> list[tuple[str, str]]:
    """Return names of columns, separated by commas, with what they mean.

    Parameters
    ----------
    table
        The name of its file without the suffix; tables of a comparison that a run has, too, are
        ``comparison classes`` and ``comparison channels``.
    columns
        Only what is in the table is named, in its order; unknown columns are left out.
    """
    known: dict[str, tuple[str, str]] = {}
    for name in ("shared", *_ALSO.get(table, ()), table):
        for names, text in MEANINGS.get(name, {}).items():
            known |= dict.fromkeys(names.split(", "), (names, text))
    found: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        if column in known:
            found.setdefault(known[column], []).append(column)
        elif column.endswith(_SPREAD) and column.removesuffix(_SPREAD) in known:
            found.setdefault(("", "standard deviation over seeds"), []).append(column)
    return [(", ".join(names), text) for (_, text), names in found.items()]
