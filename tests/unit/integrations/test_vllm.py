"""`watch` on a pretended engine, compared with brute force; vLLM itself where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.pretended_engine import (
    HEAD,
    KV_HEADS,
    PretendedEngine,
    brute_force,
    step,
)

from distviz.errors import MeasurementError, RequestError
from distviz.integrations.vllm import EXTENSION, WorkerExtension, check_sites, watch
from distviz.results import Run
from distviz.sites import SITES, SiteKey

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import pandas as pd

TEXTS = {"a": [1, 2, 3, 4, 5, 6, 7], "b": [10, 9, 8], "c": [3, 3, 5, 0]}


def serve(engine: PretendedEngine) -> None:
    """Chunks of a prompt, decoding, a new order, a preempted request, warming up between steps."""
    engine.run(step(TEXTS, {"a": (0, 4), "b": (0, 2)}))
    for worker in engine.workers:
        if len(engine.stages) == 1 and len(engine.stages[0]) == 1:
            worker.model_runner.dummy_run()
    engine.run(step(TEXTS, {"b": (2, 3), "a": (4, 6)}))
    engine.run(step(TEXTS, {"c": (0, 3)}, finished=("b",)))  # a is preempted
    engine.run(step(TEXTS, {"a": (0, 7), "c": (3, 4)}))  # and computed again, with a token more
    engine.run(step(TEXTS, {}, finished=("a", "c")))


def approx(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=1e-15)


def at(table: pd.DataFrame, key: SiteKey) -> pd.DataFrame:
    return table[(table["layer"] == key.layer) & (table["site"] == key.site)]


def check(run: Run, sites: list[str], texts: list[list[int]]) -> None:
    """Compare counts, channels and documents with brute force."""
    whole = [brute_force(ids) for ids in texts]
    assert {(key.layer, key.site) for key in run.keys} == {(n, s) for n in (0, 1) for s in sites}
    for key in run.keys:
        own = [values[key.layer, key.site] for values in whole]
        expected = np.concatenate(own)
        sketch = run.merged[key]
        assert (sketch.count, sketch.zeros) == (expected.size, (expected == 0).sum())
        assert (sketch.min, sketch.max) == approx((expected.min(), expected.max()))
        rows = at(run.channels, key)
        assert rows["channel"].tolist() == list(range(expected.shape[1]))
        assert (rows["count"] == len(expected)).all()
        assert rows["mean"].tolist() == approx(expected.mean(axis=0))
        assert rows["min"].tolist() == approx(expected.min(axis=0))
        assert rows["max"].tolist() == approx(expected.max(axis=0))
        rows = at(run.documents, key)
        assert rows["document"].tolist() == list(range(len(texts)))
        assert rows["count"].tolist() == [values.size for values in own]
        assert rows["mean"].tolist() == approx([values.mean() for values in own])


@pytest.mark.parametrize(("size", "stages"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
def test_every_site_is_that_of_brute_force(size: int, stages: int, tmp_path: Path) -> None:
    sites = list(SITES)
    engine = PretendedEngine(WorkerExtension, size, stages)
    with watch(engine, "all", sites) as seen:
        serve(engine)
    check(seen.run(), sites, [TEXTS["a"], TEXTS["b"], TEXTS["c"]])
    saved = Run.load(seen.save(tmp_path / "run"))
    assert saved.manifest["text"] == {"documents": 3, "tokens": 14}
    assert saved.manifest["warnings"] == []
    assert saved.manifest["model"] == {"name": "tiny", "architecture": "PretendedModel"}
    assert repr(seen) == "EngineResult: PretendedModel · 3 requests · 14 tokens"


@pytest.mark.parametrize("layers", ["all", "0", "1"])
def test_layers_that_share_their_activation_are_apart(layers: str) -> None:
    engine = PretendedEngine(WorkerExtension, size=2)
    for worker in engine.workers:
        first, second = worker.model_runner.model.layers
        second.mlp.act_fn = first.mlp.act_fn
    with watch(engine, layers, "act,gate") as seen:
        serve(engine)
    run = seen.run()
    whole = [brute_force(ids) for ids in (TEXTS["a"], TEXTS["b"], TEXTS["c"])]
    for key in run.keys:
        expected = np.concatenate([values[key.layer, key.site] for values in whole])
        assert at(run.channels, key)["mean"].tolist() == approx(expected.mean(axis=0))
    assert {key.layer for key in run.keys} == ({0, 1} if layers == "all" else {int(layers)})


def test_keys_of_more_ranks_than_heads_are_counted_once() -> None:
    engine = PretendedEngine(WorkerExtension, size=4)
    with watch(engine, sites="k,v") as seen:
        serve(engine)
    channels = seen.run().channels
    assert channels.groupby(["layer", "site"]).size().tolist() == [KV_HEADS * HEAD] * 4


def test_the_largest_values_have_their_token_and_channel() -> None:
    engine = PretendedEngine(WorkerExtension, size=2)
    with watch(engine, layers=1, sites="product", channels=True) as seen:
        serve(engine)
    run = seen.run()
    own = [brute_force(ids)[1, "product"] for ids in (TEXTS["a"], TEXTS["b"], TEXTS["c"])]
    for row in run.extremes.to_dict(orient="records"):
        assert row["value"] == approx(own[row["document"]][row["position"], row["channel"]])
        assert row["token_id"] == list(TEXTS.values())[row["document"]][row["position"]]
    whole = np.concatenate(own)
    assert abs(run.extremes["value"].iloc[0]) == approx(np.abs(whole).max())
    assert run.channels["top"].sum() >= len(whole)


def test_results_can_be_read_while_the_engine_runs() -> None:
    engine = PretendedEngine(WorkerExtension)
    with watch(engine, [0]) as seen:
        engine.run(step(TEXTS, {"a": (0, 4)}))
        assert seen.stats()["count"].tolist() == [4 * 16]
        engine.run(step(TEXTS, {"a": (4, 7)}))
        assert seen.stats()["count"].tolist() == [7 * 16]
    engine.run(step(TEXTS, {"c": (0, 4)}))
    assert seen.stats()["count"].tolist() == [7 * 16]
    for worker in engine.workers:
        assert "execute_model" not in vars(worker.model_runner)
        assert not any(one._forward_hooks for one in worker.model_runner.model.modules())
        assert not any(one._forward_pre_hooks for one in worker.model_runner.model.modules())


def test_tokens_of_the_cache_are_named() -> None:
    engine = PretendedEngine(WorkerExtension)
    with watch(engine) as seen:
        engine.run(step(TEXTS, {"a": (4, 7), "b": (0, 3)}))
    run = seen.run()
    assert run.manifest["text"] == {"documents": 2, "tokens": 6}
    (warning,) = run.manifest["warnings"]
    assert warning.startswith("4 tokens of the requests were in the engine's cache: they were not")


@pytest.mark.parametrize("size", [1, 2])
def test_a_place_that_fails_is_an_error_on_leaving(size: int) -> None:
    engine = PretendedEngine(WorkerExtension, size)
    for worker in engine.workers:
        worker.model_runner.padding = 0
        layer = worker.model_runner.model.layers[0]
        layer.mlp.forward = lambda x, mlp=layer.mlp: type(mlp).forward(mlp, x[:2])
        layer.forward = lambda x, residual, layer=layer: (
            layer.mlp(x).repeat(2, 1),
            x,
        )
    message = r"layers.0.mlp.act_fn \(site act\): 2 rows for 4 tokens of the step"
    with pytest.raises(MeasurementError, match=message), watch(engine, 0):  # noqa: PT012
        engine.run(step(TEXTS, {"a": (0, 4)}))
        engine.run(step(TEXTS, {"c": (0, 4)}))  # the engine goes on
    with watch(engine, 1) as seen:
        engine.run(step(TEXTS, {"a": (0, 4)}))
    assert seen.stats()["count"].tolist() == [4 * 16]


def test_a_module_that_runs_twice_in_a_step_is_an_error() -> None:
    engine = PretendedEngine(WorkerExtension)
    model = engine.workers[0].model_runner.model
    model.layers[0].mlp.forward = lambda x, mlp=model.layers[0].mlp: (
        type(mlp).forward(mlp, x) + type(mlp).forward(mlp, x)
    )
    with pytest.raises(MeasurementError, match="more than once in a step"), watch(engine):
        engine.run(step(TEXTS, {"a": (0, 4)}))


def test_a_module_that_is_skipped_is_an_error() -> None:
    engine = PretendedEngine(WorkerExtension)
    model = engine.workers[0].model_runner.model
    model.layers[1].mlp.forward = lambda x: x
    with pytest.raises(MeasurementError, match=r"never .*: layers.1.mlp.act_fn"), watch(engine):
        engine.run(step(TEXTS, {"a": (0, 4)}))


def test_an_error_of_the_caller_stays_and_the_hooks_go() -> None:
    engine = PretendedEngine(WorkerExtension)
    with pytest.raises(ValueError, match="mine"), watch(engine):
        raise ValueError("mine")
    assert engine.workers[0].distviz_recording is None


def test_two_watches_are_refused_and_the_first_goes_on() -> None:
    engine = PretendedEngine(WorkerExtension)
    with watch(engine) as seen:
        with pytest.raises(RequestError, match="watched already"), watch(engine):
            pass
        engine.run(step(TEXTS, {"a": (0, 4)}))
    assert seen.stats()["count"].tolist() == [64, 64]


class OwnExtension(WorkerExtension):
    """An extension of a user."""


def test_the_extension_is_needed() -> None:
    with watch(PretendedEngine(OwnExtension)):
        pass
    for other in ("", "collections.OrderedDict"):
        engine = PretendedEngine(WorkerExtension)
        engine.config.parallel_config.worker_extension_cls = other
        with pytest.raises(RequestError, match="have no recorder") as error, watch(engine):
            pass
        assert EXTENSION in error.value.hint
    assert f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}" == EXTENSION


@pytest.mark.parametrize(
    ("sites", "layers", "message"),
    [
        ("act,hat", "all", "unknown site 'hat'"),
        ("module:*.o_proj", "all", "cannot be observed in vLLM"),
        ("act", "0,2", "layer 2 does not exist"),
        ("act", 2, "layer 2 does not exist"),
        ("act", [], "does not exist in the chosen layers"),
    ],
)
def test_what_does_not_exist_is_refused(sites: str, layers: Any, message: str) -> None:
    engine = PretendedEngine(WorkerExtension, size=2, stages=2)
    with pytest.raises(RequestError, match=message), watch(engine, layers, sites):
        pass
    assert all(worker.distviz_recording is None for worker in engine.workers)


def test_a_site_of_another_stage_exists() -> None:
    answers = [
        {"architecture": "A", "places": [], "offered": ["q"]},
        {"architecture": "A", "places": [[1, "act"]], "offered": ["act"]},
    ]
    check_sites(answers, ["act"])
    with pytest.raises(RequestError, match=r"'q'.* does not exist in the chosen layers of A"):
        check_sites(answers, ["q"])
    with pytest.raises(RequestError, match=r"'k'.* does not exist in A as") as error:
        check_sites(answers, ["k"])
    assert error.value.hint == "there are: act, q"
