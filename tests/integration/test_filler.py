"""`distviz filler` on the demo: against plain hooks over own tokens, and as a command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import forked
from support.brute_force import eps_of, gini_of

from distviz import measure as collect
from distviz.data.corpus import tokenize
from distviz.data.documents import Document, read_documents
from distviz.data.prompts import Filler
from distviz.errors import MeasurementError, RequestError
from distviz.progress import Progress
from distviz.results.filler_study import FillerStudy
from distviz.settings import RunSettings
from distviz.studies import filler as fillers

PROMPTS = [
    Document(str(number), system="You add numbers.", question=f"What is {number} + {number + 3}?")
    for number in range(9)
]


@pytest.fixture(scope="module")
def opened() -> Any:
    return collect.open_from(RunSettings(attn_implementation="eager"), Progress())


def own_ids(opened: Any, document: Document) -> tuple[list[int], list[int]]:
    encode = opened.tokenizer
    return tuple(
        encode(part, add_special_tokens=False)["input_ids"]
        for part in (document.system, document.question)
    )


def captured(opened: Any, ids: list[int], layer: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a layer's activations (tokens, channels) and attention (heads, queries, keys)."""
    kept: dict[str, Any] = {}
    module = opened.model.model.layers[layer]
    hooks = [
        module.mlp.act_fn.register_forward_hook(lambda _m, _a, out: kept.update(act=out)),
        module.self_attn.register_forward_hook(lambda _m, _a, out: kept.update(weights=out[1])),
    ]
    try:
        with torch.no_grad():
            opened.model(torch.tensor([ids]))
    finally:
        for hook in hooks:
            hook.remove()
    weights = kept["weights"]
    return kept["act"][0].double().numpy(), None if weights is None else weights[0].double().numpy()


def spliced(
    opened: Any, document: Document, filler: list[int], prefix: list[int]
) -> tuple[list[int], list[int], np.ndarray]:
    """Return a prompt's ids without and with filler, and where its own tokens are in the latter."""
    first, second = own_ids(opened, document)
    start = len(prefix) + len(first)
    mixed = prefix + first + filler + second
    own = np.r_[0:start, start + len(filler) : len(mixed)]
    return prefix + first + second, mixed, own


def in_brute_force(plain: np.ndarray, mixed: np.ndarray) -> dict[str, np.ndarray]:
    """Changes token by token, (own tokens,), from activations; eps is that of the plain prompt."""
    eps = eps_of(plain.ravel())
    found: dict[str, list[float]] = {}
    for x, y in zip(plain, mixed, strict=True):
        changes = {
            "near_zero_difference": (np.abs(y) < eps).mean() - (np.abs(x) < eps).mean(),
            "log_variance_ratio": np.log(y.var() / x.var()),
            "log_l1_ratio": np.log(np.abs(y).sum() / np.abs(x).sum()),
            "log_l2_ratio": np.log(np.linalg.norm(y) / np.linalg.norm(x)),
            "gini_difference": gini_of(y) - gini_of(x),
        }
        for name, value in changes.items():
            found.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in found.items()}


def assert_positions(
    study: FillerStudy,
    opened: Any,
    prompts: list[Document],
    filler: list[int],
    prefix: list[int],
    layers: list[int],
) -> None:
    """Every own token of every prompt, and the mean of the first bins behind the filler."""
    tokens = study.tokens.set_index(["layer", "document"]).sort_index()
    along = study.positions.set_index(["layer", "quantity", "distance_low"])["estimate"]
    for layer in layers:
        by_distance: dict[tuple[str, int], list[float]] = {}
        for number, document in enumerate(prompts):
            ids, mixed_ids, own = spliced(opened, document, filler, prefix)
            plain, _ = captured(opened, ids, layer)
            mixed, _ = captured(opened, mixed_ids, layer)
            expected = in_brute_force(plain, mixed[own])
            rows = tokens.loc[(layer, number)]
            assert rows["position"].tolist() == list(range(len(ids)))
            assert rows["token"].tolist() == [opened.tokenizer.decode([token]) for token in ids]
            start = int(np.argmax(np.diff(own))) + 1
            assert rows["distance"].tolist() == [*range(-start, 0), *range(1, len(ids) - start + 1)]
            for name, values in expected.items():
                assert rows[name].to_numpy() == pytest.approx(values, rel=1e-9, abs=1e-12)
                for distance in (1, 2, 3, 4):
                    value = values[start + distance - 1]
                    by_distance.setdefault((name, distance), []).append(value)
        for (name, distance), values in by_distance.items():
            found = along.loc[(layer, name, distance)]
            assert found == pytest.approx(np.mean(values), rel=1e-9, abs=1e-12)


def test_every_own_token_against_plain_hooks(opened: Any) -> None:
    settings = RunSettings(layers="0,3", filler="/", batch_size=1, attention_layers="none")
    study = fillers.study_filler(opened, PROMPTS, settings, [5], Progress())
    slash = opened.tokenizer("/", add_special_tokens=False)["input_ids"] * 5
    prefix = opened.tokenizer("a")["input_ids"][:1]
    assert_positions(study, opened, PROMPTS, slash, prefix, [0, 3])
    assert study.attention.empty
    # A causal model: what stands before the filler does not change.
    before = study.tokens[study.tokens["distance"] < 0]
    assert (before["near_zero_difference"].abs() < 1e-3).all()
    assert study.tokens["near_zero_difference"].abs().max() > 5e-3
    assert set(before["part"]) == {"start", "system"}
    assert set(study.tokens.loc[study.tokens["distance"] > 0, "part"]) == {"question"}


@pytest.mark.extended
def test_real_own_tokens_against_plain_hooks(smollm2: Path) -> None:
    real = collect.open_from(RunSettings(model=str(smollm2)), Progress())
    prompts = fillers.read_prompts(RunSettings())[:3]
    settings = RunSettings(layers="0,8", filler="/", batch_size=1, attention_layers="none")
    study = fillers.study_filler(real, prompts, settings, [25], Progress())
    slash = real.tokenizer("/", add_special_tokens=False)["input_ids"] * 25
    assert_positions(study, real, prompts, slash, [], [0, 8])
    near = study.tokens.set_index(["layer", "document"])["near_zero"]
    for number in range(len(prompts)):
        share = near.loc[(0, number)].mean()
        documents = study.runs[0].documents.set_index(["layer", "document"])
        assert share == pytest.approx(documents.loc[(0, number), "near_zero"], abs=2e-3)  # fp32


def test_changes_and_attention_against_plain_hooks(opened: Any) -> None:
    settings = RunSettings(layers="0", filler="/", filler_position="between", batch_size=1)
    study = fillers.study_filler(opened, PROMPTS, settings, [5], Progress())
    changes: dict[str, list[float]] = {"log_l2_ratio": [], "log_variance_ratio": []}
    kept = []
    prefix = opened.tokenizer("a")["input_ids"][:1]
    slash = opened.tokenizer("/", add_special_tokens=False)["input_ids"] * 5
    for document in PROMPTS:
        first, second = own_ids(opened, document)
        plain, _ = captured(opened, prefix + first + second)
        start = len(prefix) + len(first)
        mixed, weights = captured(opened, prefix + first + slash + second)
        own = np.r_[0:start, start + len(slash) : len(mixed)]
        changes["log_l2_ratio"].append(np.log(np.linalg.norm(mixed[own]) / np.linalg.norm(plain)))
        changes["log_variance_ratio"].append(np.log(mixed[own].var() / plain.var()))
        behind = np.arange(start + len(slash), len(mixed))
        kept.append(weights.mean(0)[behind][:, own].sum(1).mean())
    table = study.table.set_index("quantity")
    for quantity, values in changes.items():
        assert table.loc[quantity, "estimate"] == pytest.approx(np.mean(values), rel=1e-6)
        assert table.loc[quantity, "documents"] == len(PROMPTS)
    shares = study.attention.set_index("filler_count")["attention_kept"]
    assert shares[0] == pytest.approx(1.0, abs=1e-2)  # bf16 weights do not add up to 1 exactly
    assert shares[5] == pytest.approx(np.mean(kept), rel=1e-6)


def eager_calls(opened: Any, settings: RunSettings) -> tuple[FillerStudy, set[int]]:
    """Return a study, and the layers whose attention ran in the eager implementation."""
    from transformers.models.llama import modeling_llama

    layers: set[int] = set()
    plain = modeling_llama.eager_attention_forward

    def spy(module: Any, *args: Any, **kwargs: Any) -> Any:
        layers.add(module.layer_idx)
        return plain(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama, "eager_attention_forward", spy)
        study = fillers.study_filler(opened, PROMPTS, settings, [5], Progress())
    return study, layers


def test_only_the_layers_asked_for_run_eager_attention() -> None:
    opened = collect.open_from(RunSettings(attn_implementation="sdpa"), Progress())
    configs = {id(m): m.config for m in opened.model.modules() if hasattr(m, "config")}
    given = RunSettings(layers="0-2", filler="/")
    every, eager = eager_calls(opened, given)
    assert eager == {0, 1, 2}
    assert set(every.attention["layer"]) == {0, 1, 2}
    one, eager = eager_calls(opened, replace(given, attention_layers="4"))
    assert eager == {4}
    assert set(one.attention["layer"]) == {4}
    assert one.manifest["attention_layers"] == "4"
    none, eager = eager_calls(opened, replace(given, attention_layers="none"))
    assert eager == set()
    assert none.attention.empty
    assert len(none.table) == len(every.table)
    # The model is as it was: the same configurations, the same implementation.
    for module in opened.model.modules():
        if hasattr(module, "config"):
            assert module.config is configs[id(module)]
    assert opened.model.config._attn_implementation == "sdpa"


def test_weights_beside_another_implementation_are_those_of_a_model_all_eager(opened: Any) -> None:
    mixed = collect.open_from(RunSettings(attn_implementation="sdpa"), Progress())
    given = RunSettings(layers="0-3", filler="/", attention_layers="1,3")
    kept = [
        fillers.study_filler(one, PROMPTS, given, [5], Progress()).attention
        for one in (opened, mixed)
    ]
    assert kept[1]["layer"].tolist() == kept[0]["layer"].tolist() == [1, 3, 1, 3]
    assert kept[1]["attention_kept"].tolist() == pytest.approx(
        kept[0]["attention_kept"].tolist(), abs=2e-3
    )


def test_attention_that_tells_nothing_is_said(opened: Any) -> None:
    model = opened.model.model.layers[1].self_attn
    blind = model.register_forward_hook(lambda _m, _a, out: (out[0], None))
    try:
        study = fillers.study_filler(
            opened, PROMPTS, RunSettings(layers="0-1", filler="/"), [5], Progress()
        )
        assert set(study.attention["layer"]) == {0}
        assert "attention weights are not available in layer 1" in study.manifest["warnings"][-1]
        asked = RunSettings(layers="0", filler="/", attention_layers="1")
        with pytest.raises(MeasurementError, match="not available in layer 1"):
            fillers.study_filler(opened, PROMPTS, asked, [5], Progress())
    finally:
        blind.remove()
    with pytest.raises(RequestError, match="--attention-layers 99: layer 99 does not exist"):
        fillers.study_filler(opened, PROMPTS, RunSettings(attention_layers="99"), [5], Progress())


def test_special_tokens_that_are_skipped_are_in_no_row(opened: Any) -> None:
    settings = RunSettings(layers="0", filler="/", skip_special=True, attention_layers="none")
    study = fillers.study_filler(opened, PROMPTS[:2], settings, [5], Progress())
    assert "start" not in set(study.tokens["part"])
    assert study.tokens["position"].min() == 1


def test_every_kind_keeps_the_prompts_own_tokens(opened: Any) -> None:
    plain = tokenize(PROMPTS, opened.tokenizer)
    for kind in ("repeat", "random", "words"):
        for position in ("start", "between", "end", "random"):
            filler = Filler("/", 7, position, 0, kind)
            corpus = tokenize(PROMPTS, opened.tokenizer, filler=filler)
            for without, window in zip(plain.windows, corpus.windows, strict=True):
                assert window.ids[window.own].tolist() == without.ids.tolist()
                assert (~window.own).sum() >= 7


def test_random_fillers_differ_by_document_and_not_by_run(opened: Any) -> None:
    filler = Filler("", 6, "between", 3, "random")
    first, again, other = (filler.tokens(opened.tokenizer, number) for number in (0, 0, 1))
    assert first == again != other
    assert not set(first) & set(opened.tokenizer.all_special_ids)


def test_a_prompt_that_does_not_fit_is_named(opened: Any) -> None:
    settings = RunSettings(layers="0", max_length=20)
    with pytest.raises(RequestError, match=r"prompt '0' with 30 filler tokens is longer"):
        fillers.study_filler(opened, PROMPTS, settings, [30], Progress())


def test_embedded_prompts() -> None:
    prompts = fillers.read_prompts(RunSettings())
    assert len(prompts) == 24
    assert all(prompt.is_prompt for prompt in prompts)
    assert len({prompt.question for prompt in prompts}) == 24


@pytest.mark.extended
def test_the_command(tmp_path: Path) -> None:
    text = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"system": p.system, "question": p.question}) for p in PROMPTS]
    text.write_text("\n".join(lines))
    folder = tmp_path / "study"
    model = Path(collect.__file__).parents[1] / "demo"
    command = [*forked.COMMAND, "filler", str(model), "--text", str(text)]
    command += ["--counts", "0,4,8", "--layers", "0-1", "--out", str(folder), "--json"]
    done = forked.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == [0, 4, 8]
    table = pd.read_csv(folder / "filler.csv")
    assert set(table["filler_count"]) == {4, 8}
    assert len(table) == 2 * 2 * 5
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "filler_004_act.png", "filler_008_act.png", "by_count_layer_000_act.png",
        "positions_004_act.png", "positions_008_act.png",
    }  # fmt: skip
    assert read_documents([folder / "count_000" / "documents.jsonl"])[0].question


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--counts", "a,b"], "is not a list of numbers"),
        (["--counts", "0"], "at least one number above 0"),
        (["--counts", "-3,5"], "not a list of numbers"),
        (["--attention-layers", "0-"], "--attention-layers '0-' is not a list of layers"),
        (["--filler-kind", "x"], "filler_kind|filler-kind"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, flags: list[str], message: str) -> None:
    model = Path(collect.__file__).parents[1] / "demo"
    command = [*forked.COMMAND, "filler", str(model), *flags]
    command += ["--out", str(tmp_path / "x")]
    done = forked.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    assert re.search(message, done.stderr)
    assert not list(tmp_path.iterdir())
