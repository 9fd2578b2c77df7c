"""What the columns of the tables of studies mean, see `distviz.results.meanings`."""

from __future__ import annotations

STUDIES: dict[str, dict[str, str]] = {
    "filler": {
        "filler_count": "number of filler tokens",
        "quantity": "what changes: with filler minus without, or the logarithm of the ratio",
        "estimate, ci_low, ci_high": "mean over prompts, and its 95 % interval",
    },
    "positions": {
        "distance_low, distance_high": (
            "the bin: −1 is the token directly before the filler, 1 the one directly after it"
        ),
        "tokens": "how many tokens of all prompts are in it",
    },
    "attention": {
        "attention_kept": (
            "of the attention of own tokens after the filler, the share on own tokens"
        ),
        "prompts": "the number of prompts in the mean",
    },
    "tokens": {
        "document, position, part, distance, token": (
            "its position, the part of the prompt, and its text"
        ),
        "near_zero, variance, l1, l2, gini": "over its channels, without filler",
        "near_zero_difference, log_variance_ratio, log_l1_ratio, log_l2_ratio, gini_difference": (
            "how they change"
        ),
    },
    "sweep": {
        "redistribution, layers, at, c, p1, fraction, mode": (
            "the setting; where a fraction is given, c only defines near-zero"
        ),
        "preset": "the preset that this setting comes from, or proposed; else empty",
        "seeds": "the number of seeds in the mean",
        "fraction_moved": "share of the values that changed",
        "near_zero_before, near_zero_after, near_zero_removed": (
            "shares at the redistribution's layers, mean over them; their difference"
        ),
        "own_near_zero_removed": "the same difference with the ε of the row's own c",
        "std_ratio, gini_before, gini_after, wasserstein_normalized": "at the same layers",
        "last_near_zero_before, last_near_zero_after": "at the last layer",
        "last_std_ratio, last_wasserstein_normalized": "at the last layer",
        "sqnr_db": (
            "energy of the values that arrive over that of their change, in dB, mean over the "
            "places"
        ),
        "loss_before, loss_after, kl, top1_agreement": "the effect on the output",
        "loss_change": "loss_after − loss_before",
        "loss_change_low, loss_change_high": "its 95 % interval over documents",
        "kl_low, kl_high, top1_agreement_low, top1_agreement_high": "95 % intervals over documents",
        "documents": "how many documents the intervals are over",
        "sqnr_rank, kl_rank": (
            "with --by-layer, the rank among the layers of a setting, 1 is the best"
        ),
    },
    "sweep_seeds": {
        "seed": "the seed of the redistribution",
        "last_gini_before, last_gini_after": "at the last layer",
    },
    "allocation": {
        "values": "how many values of the text pass there",
        "threshold": "largest abs(x) that becomes zero",
        "promised": "share of zeros of its level, as counted in the unchanged model",
        "zeros": "share of zeros with all places changed",
        "format, bits": "the number format, or none; bits of a value, scales of blocks included",
        "kl_alone": "KL of this level in this place alone; empty where it was not measured",
    },
    "allocation_costs": {
        "threshold, zeros": "largest abs(x) that becomes zero; share of zeros that it makes",
        "step": "number of the step that takes this level; empty for none",
    },
    "allocation_curve": {
        "kind, steps": "allocated or uniform; after how many steps, or with the mean of that point",
        "mean": "promised share of zeros, or bits of a value, over the values of all places",
        "is_chosen": "whether this point was chosen: its thresholds or formats are in the files",
        "kl_saved, loss_saved": "on allocated rows: how much less it costs than uniform, nats",
        "kl_saved_low, kl_saved_high, loss_saved_low, loss_saved_high": (
            "95 % intervals over documents, each compared with itself"
        ),
    },
    "whatif": {
        "question": (
            "sparsity (a requested level of zeros), threshold, or format (with format, range)"
        ),
        "level, format, range": "what was asked; see question",
        "threshold": "largest magnitude that becomes zero",
        "zeros, zeroed": (
            "share of values that are zero afterwards, and of those that were not before"
        ),
        "l1_kept, l2_kept": "share of sum(abs(x)) and of sum(x²) that is left",
        "clip_low, clip_high": "smallest and largest representable number",
        "scale, zero_point": "of the format",
        "clipped": "share of values that exceed the range after rounding",
        "mse, sqnr_db": (
            "mean squared error; 10 log10(sum(x²) / sum of squared errors), which is no cost to "
            "the model: inf (null in JSON) where nothing is lost, empty where every value is zero"
        ),
        "sqnr_rest_db, l2_kept_rest": (
            "sqnr_db and l2_kept of the values without the largest 0.01 % of abs(x) (at least "
            "one value), with the same scale or threshold"
        ),
        "rank, rank_rest": (
            "rank of the place among those of the same site, phase and question by sqnr_db or "
            "l2_kept, and by the same without the largest 0.01 %: 1 is the highest"
        ),
        "top_energy, value_energy": (
            "share of sum(x²) in the largest 0.01 % of abs(x), and in the largest value alone"
        ),
        "channel, channel_energy": (
            "channel with the largest sum(x²), and its share; empty where the run has no channels"
        ),
    },
    "timeline": {
        "step": "of the training, 0 is before its first step",
        "statistic, value": (
            "a column of stats.csv, or one of those above; its value, empty where there is none"
        ),
    },
    "drift": {
        "step_a, step_b": "the first and the last snapshot, which saw different documents",
        "quantity": (
            "log_variance_ratio, near_zero_difference or log_absmax_ratio (of the largest abs(x) "
            "of a document); dead_channels_difference is not tested"
        ),
        "estimate, ci_low, ci_high": (
            "of the last snapshot against the first: difference of the means over documents, and "
            "its 95 % interval"
        ),
        "documents, paired, documents_a, documents_b": (
            "the smaller number of documents; false; those of each snapshot"
        ),
        "reason": "why an interval is withheld or approximate, or why there is no test",
    },
}
"""By table: names of columns, separated by commas, and what they mean."""
