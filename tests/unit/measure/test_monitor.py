"""`Monitor` in a training loop, against plain hooks and `retain_grad` in float64."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from support.brute_force import assert_stats, eps_of, hook_count
from support.padded_models import ACTS, kept_rows, padded
from support.trained_models import (
    Captured,
    batches,
    capturing,
    checkpointed,
    expected,
    loss_of,
    train,
    trainable,
)

import distviz
from distviz.errors import RequestError
from distviz.results import Training


def row_of(run: distviz.Run, layer: int, site: str) -> dict[str, Any]:
    stats = run.stats()
    (row,) = stats[(stats["layer"] == layer) & (stats["site"] == site)].to_dict("records")
    return row


def check(run: distviz.Run, captured: Captured, *, gradients: bool = False) -> None:
    """Compare every statistic of each layer with every value."""
    for layer in range(3):
        values = captured.together("values", str(layer))
        assert_stats(row_of(run, layer, "act"), values, eps_of(values))
        if gradients:
            values = captured.together("gradients", str(layer))
            row = row_of(run, layer, "gradient:act")
            assert_stats(row, values, eps_of(values))


def test_due_steps_equal_plain_hooks_and_others_have_no_hooks(tmp_path: Path) -> None:
    model = trainable()
    before, hooks = hook_count(model), {}
    with distviz.Monitor(model, every=3, out=tmp_path / "a", gradients=True) as monitor:
        train(model, monitor, 7, then=lambda step: hooks.update({step + 1: hook_count(model)}))
    assert hook_count(model) == before
    assert [step for step, n in hooks.items() if n > before] == [3, 6]
    wanted = expected(7, 3)
    training = Training.load(tmp_path / "a")
    assert training.steps == [0, 3, 6]
    for step in training.steps:
        check(training.at(step), wanted[step], gradients=True)
    assert training.manifest["first_nonfinite"] is None
    assert training.stated["warnings"] == []
    assert [one["passes"] for one in training.manifest["steps"]] == [2, 2, 2]
    assert [one["tokens"] for one in training.manifest["steps"]] == [38, 38, 38]


def test_each_row_of_each_pass_is_a_document(tmp_path: Path) -> None:
    model = trainable()
    with distviz.Monitor(model, out=tmp_path / "a", gradients=True) as monitor:
        train(model, monitor, 1)
    run = Training.load(tmp_path / "a").at(0)
    captured = expected(1, 1)[0]
    for site, kind in (("act", "values"), ("gradient:act", "gradients")):
        rows = run.documents[(run.documents["layer"] == 1) & (run.documents["site"] == site)]
        assert rows["document"].tolist() == [*range(6)]
        assert rows["count"].tolist() == [48 * size for size in (9, 4, 6) * 2]
        values = np.concatenate(getattr(captured, kind)["1"])
        ends = np.cumsum([0, 9, 4, 6, 9, 4, 6])
        means = [values[a:b].mean() for a, b in itertools.pairwise(ends)]
        np.testing.assert_allclose(rows["mean"], means, rtol=1e-9, atol=1e-15)
        channels = run.channels[(run.channels["layer"] == 1) & (run.channels["site"] == site)]
        np.testing.assert_allclose(channels["mean"], values.mean(axis=0), rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(channels["max"], values.max(axis=0))


def test_only_training_passes_count(tmp_path: Path) -> None:
    model = trainable()
    with distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batch in batches(0):
            (loss_of(model, batch) / 2).backward()
            model.eval()
            with torch.no_grad():
                loss_of(model, padded("right", 99))
            loss_of(model, padded("right", 99))
            model.train()
            with torch.no_grad():
                loss_of(model, padded("right", 98))
        optimizer.step()
        monitor.step()
    check(Training.load(tmp_path / "a").at(0), expected(1, 1)[0], gradients=True)


def test_a_step_without_a_training_pass_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trainable()
    with distviz.Monitor(model, every=1, out=tmp_path / "a") as monitor:
        monitor.step()
        model.eval()
        loss_of(model, padded("right"))
        monitor.step()
        model.train()
        with torch.no_grad():
            loss_of(model, padded("right"))
        monitor.step()
    lines = capsys.readouterr().err.splitlines()
    start = "distviz: step {} has no snapshot: no training pass: "
    why = "no training pass: the model was not called"
    assert lines == [
        start.format(0) + "the model was not called",
        start.format(1) + "1 pass ran in evaluation mode (model.eval())",
        start.format(2) + "1 pass ran without gradients (torch.no_grad())",
        f"distviz: 3 of 3 snapshots missing, steps 0, 1, 2: {why}",
    ]
    assert Training.load(tmp_path / "a").steps == []
    assert len(json.loads((tmp_path / "a" / "training.json").read_text())["warnings"]) == 3


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_gradient_checkpointing_shows_every_value_once(
    tmp_path: Path, *, reentrant: bool, at_once: bool
) -> None:
    wanted = expected(1, 1, n_micro=3)[0]
    model = checkpointed(trainable(), reentrant=reentrant)
    with distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor:
        losses = []
        for batch in batches(0, 3):
            losses.append(loss_of(model, batch) / 3)
            if not at_once:
                losses.pop().backward()
        if losses:
            torch.stack(losses).sum().backward()
        monitor.step()
    training = Training.load(tmp_path / "a")
    assert training.stated["warnings"] == []
    check(training.at(0), wanted, gradients=True)
    documents = training.at(0).documents
    assert set(documents.groupby(["layer", "site"])["document"].nunique()) == {9}


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert"])
def test_other_models(tmp_path: Path, name: str) -> None:
    places = {str(layer): (ACTS[name].format(layer), "output") for layer in range(3)}

    def loss(model: Any, batch: Any) -> torch.Tensor:
        ids, mask = batch
        found = model(input_ids=ids, attention_mask=mask)
        values: torch.Tensor = found[0]
        return (values**2 * mask[..., None]).mean()

    model = trainable(name)
    with capturing(model, places) as take:
        loss(model, padded("right")).backward()
        wanted = take(padded("right"))
    with distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor:
        loss(model, padded("right")).backward()
        monitor.step()
    check(Training.load(tmp_path / "a").at(0), wanted, gradients=True)


def test_parts_of_fused_projections_have_their_own_gradients(tmp_path: Path) -> None:
    """GPT-2 computes q, k and v in one projection: each is a part of one tensor."""
    model = trainable("gpt2")
    places = {str(layer): (f"transformer.h.{layer}.attn.c_attn", "output") for layer in range(3)}
    with capturing(model, places) as take:
        loss_of(model, padded("left")).backward()
        wanted = take(padded("left"))
    with distviz.Monitor(model, out=tmp_path / "a", sites="q,k,v", gradients=True) as monitor:
        loss_of(model, padded("left")).backward()
        monitor.step()
    run = Training.load(tmp_path / "a").at(0)
    for number, site in enumerate(("q", "k", "v")):
        part = slice(32 * number, 32 * number + 32)
        for layer in range(3):
            values = wanted.gradients[str(layer)][0][:, part].ravel()
            assert_stats(row_of(run, layer, f"gradient:{site}"), values, eps_of(values))


class Convolutions(torch.nn.Module):
    """Channels in dimension 1; the second activation is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 4, 3)
        self.act, self.kept = torch.nn.GELU(), list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.act(self.first(x))
        second = torch.nn.functional.silu(self.second(first))
        for one in (first, second):
            one.retain_grad()
            self.kept.append(one)
        return second.square().mean()


def test_channels_of_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Convolutions(), torch.randn(5, 3, 9, 8)
    with distviz.Monitor(model, out=tmp_path / "a", gradients=True, weights=True) as monitor:
        model(images).backward()
        monitor.step()
    run = Training.load(tmp_path / "a").at(0)
    for layer, value in enumerate(model.kept):
        assert value.grad is not None
        for site, tensor in (("act", value.detach()), ("gradient:act", value.grad)):
            values = tensor.double().numpy()
            assert_stats(row_of(run, layer, site), values.ravel(), eps_of(values.ravel()))
            channels = run.channels[(run.channels["layer"] == layer)]
            channels = channels[channels["site"] == site]
            np.testing.assert_array_equal(channels["max"], values.max(axis=(0, 2, 3)))
            documents = run.documents[(run.documents["layer"] == layer)]
            documents = documents[documents["site"] == site]
            np.testing.assert_allclose(documents["mean"], values.mean(axis=(1, 2, 3)), rtol=1e-9)


def test_autocast_counts_what_is_computed(tmp_path: Path) -> None:
    def passes(model: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, padded("right"))
        loss.backward()

    model = trainable()
    with capturing(model) as take:
        passes(model)
        wanted = take(padded("right"))
    with distviz.Monitor(model, out=tmp_path / "a", gradients=True) as monitor:
        passes(model)
        monitor.step()
    run = Training.load(tmp_path / "a").at(0)
    check(run, wanted, gradients=True)
    assert not any(sketch.is_rounded for sketch in run.merged.values())


class Scaler:
    """A scale that changes at the end of a step, as that of a GradScaler."""

    def __init__(self) -> None:
        self.scale = 1024.0

    def get_scale(self) -> float:
        return self.scale


def test_gradients_are_divided_by_the_scale_of_the_loss(tmp_path: Path) -> None:
    scaler = Scaler()
    model = trainable()
    options: dict[str, Any] = {"gradients": True, "scaler": scaler}
    with distviz.Monitor(model, every=1, out=tmp_path / "a", **options) as monitor:
        for _ in range(2):
            (loss_of(model, padded("right")) * scaler.scale).backward()
            scaler.scale /= 4
            monitor.step()
    with capturing(model) as take:
        loss_of(model, padded("right")).backward()
        wanted = take(padded("right"))
    for step in (0, 1):
        check(Training.load(tmp_path / "a").at(step), wanted, gradients=True)


def test_torch_and_accelerate_scale_and_accumulate(tmp_path: Path) -> None:
    wanted = expected(1, 1)[0]
    model = trainable()
    optimizer: Any = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    options: dict[str, Any] = {"every": 1, "gradients": True}
    with distviz.Monitor(model, out=tmp_path / "a", scaler=scaler, **options) as monitor:
        for batch in batches(0):
            scaler.scale(loss_of(model, batch) / 2).backward()
        scaler.step(optimizer)
        scaler.update()
        monitor.step()
    check(Training.load(tmp_path / "a").at(0), wanted, gradients=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = trainable()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    with distviz.Monitor(prepared, out=tmp_path / "b", **options) as monitor:
        for batch in batches(0):
            with accelerator.accumulate(prepared):
                accelerator.backward(loss_of(prepared, batch))
                optimizer.step()
                optimizer.zero_grad()
        monitor.step()
    check(Training.load(tmp_path / "b").at(0), wanted, gradients=True)


def test_weights_are_those_that_the_passes_use(tmp_path: Path) -> None:
    model = trainable()
    kept = {}
    with distviz.Monitor(model, every=2, out=tmp_path / "a", layers=[1], weights=True) as monitor:

        def keep(step: int) -> None:
            own = model.model.layers[1].named_parameters()
            kept[step + 1] = {name: p.detach().double().numpy().ravel().copy() for name, p in own}

        keep(-1)
        train(model, monitor, 3, then=keep)
    for step in (0, 2):
        run = Training.load(tmp_path / "a").at(step)
        sites = [key.site for key in run.keys if key.site.startswith("weight:")]
        assert len(sites) == len(kept[step]) == 9
        assert "weight:mlp.gate_proj" in sites
        for site in sites:
            values = kept[step][site.removeprefix("weight:") + ".weight"]
            assert_stats(row_of(run, 1, site), values, eps_of(values))


def test_a_resumed_training_adds_up(tmp_path: Path) -> None:
    """Steps 0 to 6 at once, or interrupted in step 5 and done again from step 3."""
    model = trainable()
    with distviz.Monitor(model, every=1, out=tmp_path / "whole", gradients=True) as monitor:
        train(model, monitor, 7)
    model = trainable()
    state: dict[str, Any] = {}

    def save(step: int) -> None:
        if step == 2:
            state.update({name: t.clone() for name, t in model.state_dict().items()})
        if step == 4:
            raise KeyboardInterrupt

    monitor = distviz.Monitor(model, every=1, out=tmp_path / "b", gradients=True)
    with pytest.raises(KeyboardInterrupt), monitor:
        train(model, monitor, 7, then=save)
    assert hook_count(model) == hook_count(trainable())
    assert Training.load(tmp_path / "b").steps == [0, 1, 2, 3, 4]
    model = trainable()
    model.load_state_dict(state)
    options: dict[str, Any] = {"every": 1, "out": tmp_path / "b", "gradients": True}
    with pytest.raises(RequestError, match="exists"):
        distviz.Monitor(model, **options)
    with pytest.raises(RequestError, match="start="):
        distviz.Monitor(model, resume=True, **options)
    with (
        pytest.raises(RequestError, match="sites"),
        distviz.Monitor(model, resume=True, start=3, **(options | {"sites": "gate"})),
    ):
        pass
    with distviz.Monitor(model, resume=True, start=3, **options) as monitor:
        train(model, monitor, 7, start=3)
    whole, resumed = Training.load(tmp_path / "whole"), Training.load(tmp_path / "b")
    assert resumed.steps == whole.steps == [*range(7)]
    pd.testing.assert_frame_equal(resumed.timeline, whole.timeline)
    for step in whole.steps:
        assert resumed.at(step).merged == whole.at(step).merged


def test_the_first_value_that_is_not_finite_is_reported_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trainable()
    ids, mask = padded("left", 5)
    with distviz.Monitor(model, every=2, out=tmp_path / "a") as monitor:
        train(model, monitor, 2)
        loss_of(model, padded("right", 4)).backward()
        assert capsys.readouterr().err == ""
        with broken(model.model.layers[1].mlp.act_fn):
            model(input_ids=ids, attention_mask=mask)
        line = capsys.readouterr().err
        monitor.step()
    # Three rows of the first pass are documents 0 to 2; row 2 has 3 tokens of padding.
    where = "step 2, layer 1, act, document 5, position 2, channel 7"
    assert line == f"distviz: first infinity: {where}\n"
    assert capsys.readouterr().err == ""
    manifest = Training.load(tmp_path / "a").manifest
    assert manifest["first_nonfinite"] == {
        "step": 2,
        "layer": 1,
        "stack": "decoder",
        "site": "act",
        "kind": "inf",
        "module": "model.layers.1.mlp.act_fn",
        "document": 5,
        "position": 2,
        "channel": 7,
        "token_id": int(ids[2, 5]),
    }
    assert manifest["warnings"] == [f"first infinity: {where}"]


@contextlib.contextmanager
def broken(module: Any) -> Iterator[None]:
    """Let a module return values that are not finite, in padding too."""

    def change(_m: Any, _a: Any, out: torch.Tensor) -> torch.Tensor:
        new = out.clone()
        new[2, 0, 3] = float("nan")  # padding
        new[2, 5, 7] = float("inf")
        new[2, 6, 0] = float("nan")
        return new

    handle = module.register_forward_hook(change, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def test_an_error_of_observing_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trainable()
    with distviz.Monitor(model, every=1, out=tmp_path / "a") as monitor:
        train(model, monitor, 1)
        with monkeypatch.context() as patch:
            patch.setattr("distviz.results.Run.write", full_disk)
            train(model, monitor, 3, start=1)
        train(model, monitor, 4, start=3)
    assert Training.load(tmp_path / "a").steps == [0, 3]
    lines = capsys.readouterr().err.splitlines()
    assert "No space left on device" in lines[0]
    assert lines[0].startswith("distviz: step 1 has no snapshot: ")
    assert lines[1].startswith("distviz: step 2 has no snapshot: ")
    assert lines[2].startswith("distviz: 2 of 4 snapshots missing, steps 1, 2: ")
    assert len(lines) == 3


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_backward_pass_through_the_same_values_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trainable()
    with distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor:
        loss = loss_of(model, padded("right"))
        loss.backward(retain_graph=True)
        loss.backward()
        monitor.step()
    assert "two backward passes go through the same forward pass" in capsys.readouterr().err
    assert Training.load(tmp_path / "a").steps == []


def test_a_missing_backward_pass_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trainable()
    with distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor:
        loss_of(model, padded("right"))
        monitor.step()
    where = "no gradient reached layer 0, act and 2 more places before step()"
    assert where in capsys.readouterr().err
    assert set(Training.load(tmp_path / "a").at(0).stats()["site"]) == {"act"}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("n_passes", [0, 1])
def test_a_pass_that_does_not_finish_leaves_no_snapshot(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: type[BaseException],
    n_passes: int,
) -> None:
    model = trainable()

    def fail(*_: Any) -> None:
        raise error

    with distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor:
        handle = model.model.layers[1].mlp.act_fn.register_forward_hook(fail)
        with contextlib.suppress(error):
            loss_of(model, padded("right"))
        handle.remove()
        for _ in range(n_passes):
            loss_of(model, padded("right")).backward()
        monitor.step()
        train(model, monitor, 2, start=1)
    message = "step 0 has no snapshot: a training pass did not finish (error or interruption)"
    assert message in capsys.readouterr().err
    assert Training.load(tmp_path / "a").steps == [1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_a_backward_pass_that_does_not_finish_is_named(
    tmp_path: Path, error: type[BaseException]
) -> None:
    model = trainable()

    def fail(*_: Any) -> None:
        raise error

    with (
        distviz.Monitor(model, every=1, out=tmp_path / "a", gradients=True) as monitor,
        capturing(model) as take,
    ):
        first, second = batches(0)
        loss_of(model, first).backward()
        take(first)
        handle = model.model.layers[1].mlp.down_proj.register_full_backward_hook(fail)
        loss = loss_of(model, second)
        with pytest.raises(error):
            loss.backward()
        handle.remove()
        captured = take(second)
        monitor.step()
    run = Training.load(tmp_path / "a").at(0)
    reached = [len(captured.gradients[str(layer)]) for layer in range(3)]
    assert reached == [1, 1, 2]
    line = "only 1 of 2 gradients reached layer 0, act and 1 more place before step()"
    assert run.manifest["warnings"] == [line]
    check(run, captured, gradients=True)


def test_requests_that_cannot_be_carried_out(tmp_path: Path) -> None:
    model = trainable()
    for options, what in (
        ({"every": 0}, "every=0"),
        ({"every": 1.5}, "every=1.5"),
        ({"start": -1}, "start=-1"),
        ({"out": None}, "no place"),
        ({"sites": "nonsense"}, "unknown site"),
        ({"layers": [7]}, "layer 7 does not exist"),
        ({"layers": 1.5}, "layers is 1.5"),
        ({"c": 0}, "c is 0"),
    ):
        given: dict[str, Any] = {"out": tmp_path / "a"} | options
        with pytest.raises(RequestError, match=what):
            distviz.Monitor(model, **given)
    monitor = distviz.Monitor(model, out=tmp_path / "a")
    with pytest.raises(RequestError, match="outside the context"):
        monitor.step()


class Sink:
    def __init__(self, *, fails: bool = False) -> None:
        self.seen: list[int] = []
        self.fails, self.is_closed = fails, False

    def write(self, step: int, run: distviz.Run) -> None:
        assert run.sketch(0).count == 38 * 48
        self.seen.append(step)
        if self.fails:
            raise ConnectionError("no route")

    def close(self) -> None:
        self.is_closed = True


def test_sinks_get_every_snapshot(capsys: pytest.CaptureFixture[str]) -> None:
    model = trainable()
    sinks = [Sink(fails=True), Sink()]
    with distviz.Monitor(model, every=2, sinks=sinks) as monitor:
        train(model, monitor, 4)
    assert [sink.seen for sink in sinks] == [[0, 2], [0, 2]]
    assert all(sink.is_closed for sink in sinks)
    assert "step 0 is not in Sink: no route" in capsys.readouterr().err


def test_compiled_models_run_uncompiled_in_due_steps(tmp_path: Path) -> None:
    model = trainable()
    calls = []

    def backend(graph: Any, _inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    compiled: Any = torch.compile(model, backend=backend)
    with distviz.Monitor(compiled, every=2, out=tmp_path / "a", gradients=True) as monitor:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        counts = []
        for step in range(4):
            for ids, mask in batches(step):
                labels = ids.masked_fill(mask == 0, -100)
                (compiled(input_ids=ids, attention_mask=mask, labels=labels).loss / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
            counts.append(len(calls))
            monitor.step()
    assert counts[0] == 0  # step 0 is due
    assert counts[1] > 0
    assert counts[3] == counts[1]  # nothing is compiled again
    wanted = expected(4, 2)
    for step in (0, 2):
        check(Training.load(tmp_path / "a").at(step), wanted[step], gradients=True)


def test_rows_without_padding_are_rows_of_the_mask() -> None:
    ids, mask = padded("left")
    assert kept_rows(ids[..., None], mask).shape == (19, 1)


def test_what_cannot_be_observed_is_refused_by_name(tmp_path: Path) -> None:
    copies = torch.nn.DataParallel(trainable())
    copies.device_ids = [0, 1]
    with pytest.raises(RequestError, match="DataParallel runs copies of the model in threads"):
        distviz.Monitor(copies, out=tmp_path / "a")
    copies.device_ids = [0]  # the model itself
    distviz.Monitor(copies, out=tmp_path / "a")
    divided = trainable()
    divided._tp_size = 2
    with pytest.raises(RequestError, match="divided among processes"):
        distviz.Monitor(divided, out=tmp_path / "a")
