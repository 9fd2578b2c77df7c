"""`distviz.run` on the demo against every value, kept by plain hooks on the very same batches."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import (
    CLASSES,
    Measured,
    assert_stats,
    batch_windows,
    cut_windows,
    effect_of,
    eps_of,
    gini_of,
    hook_count,
    largest_of,
    lower_median,
    measure,
    on_grid,
    plain_arm,
    token_class,
)
from support.texts import TEXTS
from transformers import AutoModelForCausalLM

import distviz
from distviz.arm.arm import ARM
from distviz.errors import RequestError
from distviz.output import visible
from distviz.results.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYERS = 6
SITES: dict[str, tuple[str, str]] = {
    "gate": ("mlp.gate_proj", "output"),
    "act": ("mlp.act_fn", "output"),
    "up": ("mlp.up_proj", "output"),
    "product": ("mlp.down_proj", "input"),
    "down": ("mlp.down_proj", "output"),
    "q": ("self_attn.q_proj", "output"),
    "k": ("self_attn.k_proj", "output"),
    "v": ("self_attn.v_proj", "output"),
    "attention": ("self_attn.o_proj", "input"),
    "residual": ("", "output"),
}
ARM_FLAGS = ("c", "p1", "p_min", "p_max", "fraction", "percentile_of", "passes", "seed")


def place(layer: int, site: str) -> tuple[str, str]:
    path, side = SITES[site]
    return f"model.layers.{layer}.{path}".rstrip("."), side


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def measure_both(
    demo: Path,
    tokenizer: Any,
    *,
    arm_layers: tuple[int, ...] = (0,),
    sites: tuple[str, ...] = ("act",),
    max_length: int = 32,
    batch_size: int = 4,
    dtype: str = "bfloat16",
    ripple: bool = True,
    arm_mode: str = "replace",
    **options: Any,
) -> tuple[Run, Measured]:
    """The same measurement by distviz and by hand."""
    run = distviz.run(
        text=TEXTS,
        arm_layers=",".join(map(str, arm_layers)) or "none",
        sites=",".join(sites),
        max_length=max_length,
        batch_size=batch_size,
        dtype=dtype,
        ripple=ripple,
        arm_mode=arm_mode,
        device="cpu",
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=getattr(torch, dtype)).eval()
    batches = batch_windows(cut_windows(tokenizer, TEXTS, max_length, [0]), batch_size)
    wanted = dict.fromkeys((*sites, "act"))
    places = {(layer, site): place(layer, site) for layer in range(LAYERS) for site in wanted}
    found = measure(
        model,
        batches,
        places,
        {layer: place(layer, "act")[0] for layer in arm_layers},
        has_head=ripple,
        ripple=ripple,
        call={"use_cache": False},
        mode=arm_mode,
        **{name: value for name, value in options.items() if name in ARM_FLAGS},
    )
    for key in [key for key in found.values if key[1] not in sites]:
        del found.values[key]
    return run, found


def assert_all_stats(run: Run, found: Measured, c: float = 0.13) -> None:
    rows = {
        (row["layer"], row["site"], row["phase"]): row for row in run.stats().to_dict("records")
    }
    assert set(rows) == set(found.values)
    for (layer, site, phase), row in rows.items():
        eps = eps_of(found.of((layer, site, "before")), c)
        assert_stats(row, found.of((layer, site, phase)), eps)
        # what enters the activation is seen at the activation itself
        assert row["module"] == place(layer, "act" if site == "gate" else site)[0]
        assert row["stack"] == "decoder"


def assert_documents(run: Run, found: Measured, c: float = 0.13) -> None:
    numbers = sorted({document for document, _ in found.places})
    keys = [key for key in found.values if key[2] not in ("moved_before", "moved_after")]
    table = run.documents.set_index(["document", "layer", "site", "phase"])
    assert len(table) == len(numbers) * len(keys)
    for layer, site, phase in keys:
        for document in numbers:
            row = table.loc[(document, layer, site, phase)]
            exact = found.document((layer, site, phase), document)
            x = on_grid(exact)
            eps = eps_of(found.document((layer, site, "before"), document), c)
            assert row["count"] == x.size
            assert row["eps"] == pytest.approx(eps, rel=1e-12)
            expected = {
                "mean": exact.mean(), "std": exact.std(), "near_zero": (np.abs(x) < eps).mean(),
                "l1": np.abs(exact).sum(), "l2": math.sqrt((exact**2).sum()), "gini": gini_of(x),
            }  # fmt: skip
            scale = float(np.abs(x).max())
            assert row["absmax"] == scale
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-11 * scale), name


def assert_channels(run: Run, found: Measured) -> None:
    keys = [key for key in found.values if key[2] not in ("moved_before", "moved_after")]
    groups = dict(iter(run.channels.groupby(["layer", "site", "phase"])))
    assert set(groups) == set(keys)
    for key, group in groups.items():
        x = torch.cat(found.values[key]).double().numpy()
        np.testing.assert_array_equal(group["channel"], np.arange(x.shape[1]))
        np.testing.assert_array_equal(group["count"], np.full(x.shape[1], x.shape[0]))
        np.testing.assert_array_equal(group["zeros"], (x == 0).sum(axis=0))
        np.testing.assert_array_equal(group["positive"], (x > 0).sum(axis=0))
        scale = np.abs(x).max()
        np.testing.assert_allclose(group["mean"], x.mean(axis=0), rtol=1e-6, atol=1e-7 * scale)
        np.testing.assert_allclose(group["std"], x.std(axis=0), rtol=1e-5, atol=1e-6 * scale)
        np.testing.assert_array_equal(group["min"], x.min(axis=0))
        np.testing.assert_array_equal(group["max"], x.max(axis=0))
        np.testing.assert_array_equal(group["absmax"], np.abs(x).max(axis=0))
        if "top" in group:
            largest = np.abs(x).argmax(axis=1)  # the first of several
            np.testing.assert_array_equal(group["top"], np.bincount(largest, minlength=x.shape[1]))
            deviations = x - x.mean(axis=0)
            kurtosis = (deviations**4).mean(axis=0) / (deviations**2).mean(axis=0) ** 2 - 3
            np.testing.assert_allclose(group["kurtosis"], kurtosis, rtol=1e-10, atol=1e-10)


def assert_extremes(run: Run, found: Measured, tokenizer: Any) -> None:
    keys = [key for key in found.values if key[2] not in ("moved_before", "moved_after")]
    groups = dict(iter(run.extremes.groupby(["layer", "site", "phase"])))
    assert set(groups) == set(keys)
    for key, group in groups.items():
        windows = zip(found.places, found.ids, found.values[key], strict=True)
        rows = [
            ((*place, position, int(ids[position])), row)
            for place, ids, values in windows
            for position, row in enumerate(values.double().numpy())
        ]
        median = lower_median(np.abs(on_grid(found.of(key))))
        wanted = largest_of(rows)
        assert group["rank"].tolist() == list(range(1, 21))
        assert group["value"].tolist() == [value for value, _, _ in wanted]
        names = ["document", "window", "position", "token_id"]
        assert [*group[names].itertuples(index=False, name=None)] == [at for _, at, _ in wanted]
        assert group["channel"].tolist() == [channel for _, _, channel in wanted]
        texts = [visible(tokenizer.decode([place[3]])) for _, place, _ in wanted]
        assert group["token"].tolist() == texts
        assert group["ratio"].tolist() == [abs(value) / median for value, _, _ in wanted]


def assert_plans(run: Run, found: Measured) -> None:
    table = run.plans.set_index(["layer", "document", "window", "pass"])
    assert len(table) == sum(len(plans) for of in found.plans.values() for plans in of)
    for layer, of_layer in found.plans.items():
        for (document, window), plans in zip(found.places, of_layer, strict=True):
            for number, plan in enumerate(plans):
                row = table.loc[(layer, document, window, number)]
                assert (row["n"], row["k"]) == (plan.n, plan.k)
                for name in ("eps", "near", "fraction", "upper", "lower"):
                    wanted = getattr(plan, name)
                    assert row[name] == pytest.approx(wanted, rel=1e-12, abs=1e-13), name


def assert_classes(run: Run, found: Measured, layers: set[int], tokenizer: Any) -> None:
    classes = [
        np.array([token_class(tokenizer.decode([token])) for token in ids]) for ids in found.ids
    ]
    together = np.concatenate(classes)
    assert run.manifest["token_classes"] == {
        name: int((together == name).sum()) for name in CLASSES
    }
    table = run.classes()
    table = table[table["partition"] == "class"]
    table = table.set_index(["layer", "site", "phase", "token_class"])
    keys = [
        key
        for key in found.values
        if key[0] in layers and key[2] not in ("moved_before", "moved_after")
    ]
    assert len(table) == len(keys) * len(CLASSES)
    for layer, site, phase in keys:
        eps = eps_of(found.of((layer, site, "before")))
        for name in CLASSES:
            row = table.loc[(layer, site, phase, name)]
            assert row["tokens"] == (together == name).sum()
            values = found.of((layer, site, phase), lambda number, n=name: classes[number] == n)
            x = np.abs(on_grid(values))
            wanted = (x < eps).mean() if x.size else math.nan
            assert row["near_zero"] == pytest.approx(wanted, rel=1e-12, nan_ok=True)


def assert_effect(run: Run, found: Measured, tolerance: float) -> None:
    wanted = effect_of(found)
    effect = run.manifest["effect"]
    assert set(effect) == set(wanted)
    assert effect["positions"] == wanted["positions"]
    for name in ("loss_before", "loss_after", "kl"):
        assert effect[name] == pytest.approx(wanted[name], rel=tolerance, abs=tolerance), name
    slack = 0 if tolerance < 1e-4 else 2 / wanted["positions"]
    assert effect["top1_agreement"] == pytest.approx(wanted["top1_agreement"], abs=slack + 1e-12)


# Everything, recomputed ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_two_arm_layers(dtype: str, demo_folder: Path, demo_tokenizer: Any) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, arm_layers=(0, 2), dtype=dtype)
    assert {key[2] for key in found.values if key[0] == 2} == {
        "before", "after", "arm_input", "moved_before", "moved_after",
    }  # fmt: skip
    assert {key[2] for key in found.values if key[0] == 0} == {
        "before", "after", "moved_before", "moved_after",
    }  # fmt: skip
    assert_all_stats(run, found)
    assert_documents(run, found)
    assert_channels(run, found)
    assert_extremes(run, found, demo_tokenizer)
    assert_plans(run, found)
    assert_classes(run, found, {0, 2}, demo_tokenizer)
    assert_effect(run, found, 1e-5 if dtype == "float32" else 3e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_details_of_channels(
    batch_size: int, dtype: str, demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(
        demo_folder, demo_tokenizer, dtype=dtype, batch_size=batch_size, channels=True,
        sites=("act", "residual"),
    )  # fmt: skip
    assert {"kurtosis", "top"} <= set(run.channels)
    assert_channels(run, found)


def test_all_ten_sites(demo_folder: Path, demo_tokenizer: Any) -> None:
    run, found = measure_both(
        demo_folder, demo_tokenizer, arm_layers=(0, 2), sites=tuple(SITES), dtype="float32"
    )
    assert list(dict.fromkeys(run.stats()["site"])) == list(SITES)
    assert_all_stats(run, found)
    assert_channels(run, found)
    assert_extremes(run, found, demo_tokenizer)
    assert_documents(run, found)
    assert_classes(run, found, {0, 2}, demo_tokenizer)


@pytest.mark.parametrize(
    "arm",
    [
        {"passes": 2},
        {"passes": 3, "c": 0.45, "p1": 80.0, "p_min": 0.2},
        {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude", "seed": 7},
        {"arm_mode": "add", "p_max": 0.1},
        {"c": 2.0, "p1": 0.5, "seed": 2**40 + 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"], ids=["bf16", "fp32"])
def test_settings_of_arm(
    arm: dict[str, Any], dtype: str, demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, arm_layers=(1, 4), dtype=dtype, **arm)
    assert_all_stats(run, found, arm.get("c", 0.13))
    assert_plans(run, found)


@pytest.mark.parametrize("arm_layers", [(0,), (0, 2), (1, 3, 5)])
def test_without_ripple_arm_stands_beside_the_untouched_model(
    arm_layers: tuple[int, ...], demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(
        demo_folder, demo_tokenizer, arm_layers=arm_layers, ripple=False, passes=2
    )
    paired = {key[0] for key in found.values if key[2] != "before"}
    assert paired == set(arm_layers)
    assert not [key for key in found.values if key[2] == "arm_input"]
    assert_all_stats(run, found)
    assert_documents(run, found)
    assert_channels(run, found)
    assert_extremes(run, found, demo_tokenizer)
    assert_plans(run, found)
    assert_no_effect(run)


def assert_no_effect(run: Run) -> None:
    effect = run.manifest["effect"]
    assert effect is None or set(effect.values()) == {None}


def test_without_arm_there_is_one_phase(demo_folder: Path, demo_tokenizer: Any) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, arm_layers=(), c=0.4)
    assert_all_stats(run, found, 0.13)  # the run's c, 0.13 where ARM is off
    assert_documents(run, found, 0.13)
    assert run.manifest["arm"] is None
    assert run.plans.empty
    effect = run.manifest["effect"]
    wanted = effect_of(Measured(**vars(found) | {"logits": {
        "before": found.logits["before"], "after": found.logits["before"],
    }}))  # fmt: skip
    assert effect["loss_before"] == pytest.approx(wanted["loss_before"], rel=3e-3)
    assert effect["loss_after"] is effect["kl"] is effect["top1_agreement"] is None


@pytest.mark.parametrize(("batch_size", "n_threads"), [(1, 2), (3, 1), (8, 2)])
def test_batches_and_threads(
    n_threads: int, batch_size: int, demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(
        demo_folder, demo_tokenizer, batch_size=batch_size, threads=n_threads, max_length=19
    )
    assert run.manifest["threads"] == n_threads
    assert_all_stats(run, found)
    assert_documents(run, found)
    assert_plans(run, found)


def test_long_windows_are_padded_on_the_right(demo_folder: Path, demo_tokenizer: Any) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, max_length=512, dtype="float32")
    assert [window for _, window in found.places] == [0] * len(TEXTS)
    assert len({len(ids) for ids in found.ids}) > 1
    assert_all_stats(run, found)
    assert_effect(run, found, 1e-5)


# What is counted ----------------------------------------------------------------------------


def test_skip_special_leaves_special_tokens_out_of_the_statistics_alone(
    demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, skip_special=True)
    special = set(demo_tokenizer.all_special_ids)

    def kept(number: int) -> Any:
        return np.array([token not in special for token in found.ids[number]])

    for row in run.stats().to_dict("records"):
        key = (row["layer"], row["site"], row["phase"])
        eps = eps_of(found.of((*key[:2], "before"), kept))
        assert_stats(row, found.of(key, kept), eps)
    assert_plans(run, found)  # ARM's set has them still
    assert run.manifest["text"]["tokens"] == sum(map(len, found.ids))
    assert run.manifest["text"]["counted"] == sum(int(kept(i).sum()) for i in range(len(found.ids)))


@pytest.mark.parametrize("arm_layers", [(), (1,)])
def test_classes_of_every_layer(
    arm_layers: tuple[int, ...], demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, arm_layers=arm_layers, classes="all")
    assert_classes(run, found, set(range(LAYERS)), demo_tokenizer)
    assert_all_stats(run, found)
    for by_class in run.sketches.values():
        assert tuple(by_class) == CLASSES


@pytest.mark.parametrize("limit", [1, 20, 33, 70])
def test_max_tokens_cuts_the_text(limit: int, demo_folder: Path, demo_tokenizer: Any) -> None:
    run = distviz.run(text=TEXTS, max_tokens=limit, max_length=32, device="cpu")
    left, windows = limit, []
    for document, window, ids in cut_windows(demo_tokenizer, TEXTS, 32, [0]):
        if left > 0:
            windows.append((document, window, ids[:left]))
        left -= len(ids)
    model = AutoModelForCausalLM.from_pretrained(demo_folder, dtype=torch.bfloat16).eval()
    places = {(layer, "act"): place(layer, "act") for layer in range(LAYERS)}
    acts = {0: place(0, "act")[0]}
    batches = batch_windows(windows, 4)
    found = measure(model, batches, places, acts, has_head=True, call={"use_cache": False})
    assert_all_stats(run, found)
    assert_documents(run, found)
    assert run.manifest["text"]["tokens"] == limit
    assert run.manifest["text"]["truncated"] is True
    assert not any("--max-tokens" in warning for warning in run.manifest["warnings"])


def test_observed_layers_and_arm_layers_need_not_meet(
    demo_folder: Path, demo_tokenizer: Any
) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, arm_layers=(1,), layers="0,3-4")
    for key in [key for key in found.values if key[0] not in (0, 3, 4)]:
        del found.values[key]
    assert_all_stats(run, found)
    assert_plans(run, found)


def test_module_patterns(demo_folder: Path, demo_tokenizer: Any) -> None:
    run, found = measure_both(demo_folder, demo_tokenizer, sites=("attention", "down"))
    other = distviz.run(
        text=TEXTS, max_length=32, sites="module:*.down_proj,module:model.norm", device="cpu"
    )
    stats = other.stats()
    assert set(stats["site"]) == {"module:*.down_proj", "module:model.norm"}
    assert set(stats.loc[stats["site"] == "module:model.norm", "layer"]) == {-1}
    assert_all_stats(run, found)
    for layer in range(LAYERS):
        for phase in ("before", "after"):
            mine = other.merged[other.find(layer, "module:*.down_proj", phase)]
            assert mine == run.merged[run.find(layer, "down", phase)]


# Promises -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_arm_on_a_given_tensor_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    x = torch.nn.functional.silu(torch.randn(5, 40, 96, generator=torch.Generator().manual_seed(3)))
    x = x.to(dtype)
    lengths = [40, 17, 1, 33, 25]
    mask = torch.arange(40)[None] < torch.tensor(lengths)[:, None]
    documents = [11, 12, 5, 0, 2**33]
    tokens = torch.arange(40)[None] + torch.arange(5)[:, None] * 1000
    arm = ARM(c=0.3, seed=9, passes=2)
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        together = arm(x, mask, layer=3, documents=documents, tokens=tokens)
        results.append(together)
        for row, size in enumerate(lengths):
            alone = arm(
                x[row : row + 1, :size], None, layer=3, documents=documents[row : row + 1],
                tokens=tokens[row : row + 1, :size],
            )  # fmt: skip
            assert torch.equal(alone[0], together[row, :size])
            assert torch.equal(x[row, size:], together[row, size:])
    assert torch.equal(*results)
    keys = [(documents[1], int(token)) for token in tokens[1, :17]]
    by_hand, _, _ = plain_arm(x[1, :17], keys, layer=3, seed=9, passes=2, c=0.3)
    assert torch.equal(by_hand, together[1, :17])


def test_same_seed_same_bytes(tmp_path: Path, demo_run: Run) -> None:
    options: dict[str, Any] = {"text": TEXTS, "arm_layers": "0,2", "max_length": 32}
    folders = [
        distviz.run(**options, seed=seed, device="cpu").save(tmp_path / name)
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    ]
    contents = [(folder / "counts.parquet").read_bytes() for folder in folders]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    for name in (
        "stats.csv",
        "plans.csv",
        "classes.csv",
        "documents.parquet",
        "channels.parquet",
        "extremes.csv",
    ):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_the_folder_is_whole_and_says_what_the_run_says(tmp_path: Path, demo_run: Run) -> None:
    folder = demo_run.save(tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "stats.csv", "histograms.csv", "plans.csv", "classes.csv",
        "documents.parquet", "channels.parquet", "counts.parquet", "documents.jsonl",
        "extremes.csv", "token_groups.parquet",
    }  # fmt: skip
    columns = [
        "layer", "site", "phase", "module", "count", "nan", "inf", "zeros", "min", "max", "mean",
        "std", "skewness", "kurtosis", "p0_1", "p1", "p5", "p25", "p50", "p75", "p95", "p99",
        "p99_9", "mad", "eps", "near_zero", "l1", "l2", "gini", "entropy_bits", "stack",
        "mean_abs_change",
    ]  # fmt: skip
    stats = pd.read_csv(folder / "stats.csv")
    assert list(stats) == columns
    pd.testing.assert_frame_equal(stats, demo_run.stats(), check_dtype=False, check_exact=True)
    assert list(pd.read_csv(folder / "plans.csv"))[:11] == [
        "layer", "site", "document", "window", "n", "eps", "near", "fraction", "k", "upper",
        "lower",
    ]  # fmt: skip
    assert list(pd.read_csv(folder / "classes.csv"))[:6] == (
        ["layer", "site", "phase", "token_class", "tokens", "near_zero"]
    )
    assert list(pd.read_csv(folder / "histograms.csv"))[:7] == (
        ["layer", "site", "phase", "bin_left", "bin_right", "count", "density"]
    )
    documents = pd.read_parquet(folder / "documents.parquet")
    wanted = {"document", "layer", "site", "phase", "count", "mean", "std", "eps", "near_zero"}
    assert wanted | {"l1", "l2", "gini"} <= set(documents)
    channels = pd.read_parquet(folder / "channels.parquet")
    wanted = {"layer", "site", "phase", "channel", "count", "mean", "std", "min", "max", "absmax"}
    assert wanted <= set(channels)
    counts = pd.read_parquet(folder / "counts.parquet")
    assert list(counts)[:7] == ["layer", "site", "phase", "module", "token_class", "value", "count"]
    assert (counts["count"] > 0).all()
    texts = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    assert [text["text"] for text in texts] == TEXTS
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["schema_version"] == 3
    for name in ("settings", "model", "text", "versions", "device", "dtype", "seconds", "warnings"):
        assert name in manifest
    assert set(manifest["effect"]) >= {"loss_before", "loss_after", "kl", "top1_agreement"}
    for name in ("sha256", "documents", "tokens"):
        assert name in manifest["text"]
    for name in ("source", "architecture", "activation", "fingerprint"):
        assert manifest["model"][name]


def test_the_folder_is_enough_to_repeat_the_run(tmp_path: Path, demo_run: Run) -> None:
    folder = demo_run.save(tmp_path / "run")
    manifest = json.loads((folder / "run.json").read_text())
    settings = manifest["settings"]
    chosen = {name: settings[name] for name in ("arm_layers", "max_length", "seed", "batch_size")}
    again = distviz.run(
        text=[folder / "documents.jsonl"], device=manifest["device"], dtype=manifest["dtype"],
        threads=manifest["threads"], **chosen,
    )  # fmt: skip
    assert again.manifest["text"]["sha256"] == manifest["text"]["sha256"]
    assert again.merged == demo_run.merged


def test_a_run_leaves_no_hook_and_no_thread_setting_behind() -> None:
    from distviz.data.corpus import tokenize
    from distviz.data.documents import read_documents
    from distviz.measure.measurement import measure as measure_open
    from distviz.models.open import open_model
    from distviz.settings import RunSettings

    opened = open_model(None, device="cpu")
    corpus = tokenize(read_documents(TEXTS[:2]), opened.tokenizer, max_length=16)
    before = hook_count(opened.model)
    measure_open(opened, corpus, RunSettings(arm_layers="0,2", sites="act,down"))
    assert hook_count(opened.model) == before
    with pytest.raises(RequestError, match="layer 9 does not exist"):
        measure_open(opened, corpus, RunSettings(layers="9"))
    assert hook_count(opened.model) == before


def test_prompts_with_filler(demo_tokenizer: Any) -> None:
    prompts = [{"system": "Answer the question.", "question": "How many apples has Anna?"}]
    plain = distviz.run(text=prompts, device="cpu")
    filled = distviz.run(text=prompts, filler="/", filler_count=7, device="cpu")
    extra = 7 * len(demo_tokenizer("/", add_special_tokens=False)["input_ids"])
    assert filled.manifest["text"]["tokens"] == plain.manifest["text"]["tokens"] + extra
    assert plain.texts == [{"id": "0", **prompts[0]}] or plain.texts == [
        {"id": plain.texts[0]["id"], **prompts[0]}
    ]


def test_an_empty_list_of_texts_is_not_the_embedded_text() -> None:
    with pytest.raises(RequestError, match=r"empty|no text|nothing"):
        distviz.run(text=[])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": "6"}, "layer 6 does not exist"),
        ({"layers": "none"}, "nothing to observe"),
        ({"arm_layers": "0,17"}, "layer 17 does not exist"),
        ({"sites": "gait"}, "unknown site 'gait'.*'gate'"),
        ({"sites": "module:nowhere.*"}, "matches no module"),
        ({"c": 0.0}, "c is 0.0"),
        ({"p1": 100.5}, "p1 is 100.5"),
        ({"p_min": 0.5}, "p_min 0.5 is larger than p_max"),
        ({"dtype": "fp12"}, "fp12"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"no_such": 1}, "no_such"),
        ({"text": ["  "]}, "empty"),
        ({"filler": ""}, "filler"),
        ({"max_length": 1}, "^max_length is 1"),
        ({"chat_template": True, "text": [{"question": "Why?"}]}, "no chat template"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        distviz.run(**({"text": TEXTS[:1], "device": "cpu"} | options))


def test_another_redistribution_in_place_of_arm(tmp_path: Path, call: Any) -> None:
    (tmp_path / "here" / "halving.py").write_text("def half(x):\n    return x * 0.5\n")
    (tmp_path / "here" / "text.txt").write_text(TEXTS[0])
    options = ("--text", "text.txt", "--no-figures", "--layers", "0", "--sites", "act")
    for name, number in (("threshold", 0), ("halving:half", 1)):
        done = call("run", *options, "--redistribution", name, "--out", f"run{number}")
        assert done.code == 0, done.err
        assert f"0 {name}" in done.out
        run = distviz.Run.load(f"run{number}")
        assert run.manifest["arm"]["redistribution"] == name
        before, after = (run.sketch(0, phase=phase) for phase in ("before", "after"))
        if name == "threshold":
            moved = run.sketch(0, phase="moved_before").count
            assert run.sketch(0, phase="moved_after").zeros == moved > 0
            assert after.zeros == moved + before.zeros
        else:
            assert after.max == before.max / 2
            assert run.plans.empty
    shown = call("show", "run0")
    assert "threshold in layer 0" in shown.out


def test_a_preset_is_proposed_where_none_is_published(call: Any, tmp_path: Path) -> None:
    (tmp_path / "here" / "text.txt").write_text(TEXTS[0])
    options = ("run", "--text", "text.txt", "--no-figures", "--preset", "auto", "--arm-layers", "2")
    done = call(*options, "--out", "run")
    assert done.code == 0, done.err
    run = distviz.Run.load("run")
    values = run.sketch(2).magnitude_pairs()
    share = values[1][values[0] < 0.1 * run.sketch(2).std()].sum() / values[1].sum()
    assert share < 0.5
    assert (run.manifest["arm"]["c"], run.manifest["arm"]["p1"]) == (0.32, 90.0)
    evidence = run.manifest["arm"]["preset"]["evidence"]
    assert evidence.startswith(f"layer 2: {share:.0%} of the values")
    assert f"proposed c = 0.32, p1 = 90, since in {evidence[:8]}" in " ".join(done.err.split())
    named = distviz.run(text=TEXTS[:1], preset="llama-3.1-8b-instruct")
    assert (named.manifest["arm"]["c"], named.manifest["arm"]["p_min"]) == (0.32, 0.2)


@pytest.mark.parametrize("ripple", [True, False])
def test_logits_are_a_module_like_others(ripple: bool) -> None:
    """The head computes every position where it is observed, and the effect is the same."""
    options: dict[str, Any] = {
        "text": TEXTS[:2],
        "max_length": 16,
        "device": "cpu",
        "ripple": ripple,
    }
    plain = distviz.run(sites="module:model.norm", **options)
    run = distviz.run(sites="module:lm_head,module:model.norm", **options)
    rows = run.stats().set_index(["site", "phase"])
    tokens = run.manifest["text"]["counted"]
    assert rows.loc[("module:lm_head", "before"), "count"] == tokens * 2048
    assert run.manifest["effect"] == plain.manifest["effect"]


def test_the_first_tensor_of_a_whole_model_is_observed() -> None:
    run = distviz.run(sites="module:model", text=TEXTS[:2], max_length=16, device="cpu")
    norm = distviz.run(sites="module:model.norm", text=TEXTS[:2], max_length=16, device="cpu")
    names = ["count", "mean", "std", "min", "max"]
    assert run.stats()[names].equals(norm.stats()[names])
