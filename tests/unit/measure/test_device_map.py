"""Models that accelerate has spread: its hooks stand around every forward, ours see the same.

No GPU is needed: parts of the model wait on the disk, and are brought to the CPU for each call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from support.equality import same
from support.texts import TEXTS
from support.tiny_models import save_tiny

import distviz
from distviz.data.documents import read_documents
from distviz.errors import RequestError
from distviz.measure.measurement import measure
from distviz.measure.opening import corpus_of
from distviz.models.open import open_model
from distviz.models.wrappers import entry_device
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies import sweep as sweeps
from distviz.studies.sweep_grid import SweepGrid

pytestmark = pytest.mark.extended

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

OPTIONS: dict[str, Any] = {"arm_layers": "0,2", "max_length": 16, "batch_size": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Any:
    place, made = tmp_path_factory.mktemp("spread"), {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_tiny(kind, place / kind, demo_folder)
        return made[kind]

    return get


def spread(folder: Path) -> dict[str, str]:
    """Every other part of the model on the disk, the embedding first."""
    model = open_model(str(folder), device="cpu").model
    parts: list[str] = []
    for name, child in model.named_modules():
        if any(name.startswith(f"{part}.") for part in parts) or not name:
            continue
        inner = [m for m in child.modules() if isinstance(m, torch.nn.ModuleList)]
        owned = list(child.parameters(recurse=False))
        if not (inner or isinstance(child, torch.nn.ModuleList)) or owned:
            parts.append(name)
    places = {part: ("disk", "cpu")[number % 2] for number, part in enumerate(parts)}
    holders: dict[int, str] = {}
    for name in parts:  # what shares weights has to be in one place
        for value in model.get_submodule(name).parameters():
            places[name] = places[holders.setdefault(id(value), name)]
    return places


def measured(opened: Any, **options: Any) -> Any:
    settings = RunSettings(**(OPTIONS | options))
    return measure(opened, corpus_of(read_documents(TEXTS), opened, settings), settings)


def names_on_disk(model: Any) -> list[str]:
    everything = model.named_parameters(remove_duplicate=False)
    return [name for name, value in everything if value.is_meta]


def hooks_of_accelerate(model: Any) -> int:
    return sum(hasattr(module, "_hf_hook") for module in model.modules())


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "minicpm3", "bert", "t5"])
@pytest.mark.parametrize("ripple", [True, False])
def test_numbers_are_those_of_a_model_in_one_place(kind: str, ripple: bool, folders: Any) -> None:
    places = spread(folders(kind))
    assert set(places.values()) == {"cpu", "disk"}
    opened = open_model(str(folders(kind)), device_map=places)
    waiting = names_on_disk(opened.model)
    assert any("embed" in name or "wte" in name or "shared" in name for name in waiting)
    before = hooks_of_accelerate(opened.model)
    assert before > 4
    found = measured(opened, ripple=ripple)
    plain = open_model(str(folders(kind)), device="cpu")
    expected = measured(plain, ripple=ripple)
    same(found, expected)
    assert found.manifest["effect"] == expected.manifest["effect"]
    assert (found.manifest["effect"] is None) == (not ripple or kind in ("bert", "t5"))
    assert found.manifest["device"] == "several (device map)"
    assert [mlp.points for mlp in opened.mlps] == [mlp.points for mlp in plain.mlps]
    # All went back to where it waits, and accelerate still stands around it.
    assert names_on_disk(opened.model) == waiting
    assert hooks_of_accelerate(opened.model) == before


@pytest.mark.parametrize("way", ["eager", "grouped_mm"])
def test_experts_that_wait_elsewhere(way: str, folders: Any) -> None:
    from accelerate import cpu_offload

    models = [open_model(str(folders("mixtral")), device="cpu") for _ in range(2)]
    for opened in models:
        opened.model.set_experts_implementation(way)
    cpu_offload(models[1].model, execution_device=torch.device("cpu"))
    assert all(value.is_meta for value in models[1].model.parameters())
    runs = [measured(opened, sites="act,down", arm_layers="1") for opened in models]
    same(*runs)
    assert runs[0].experts.equals(runs[1].experts)
    assert runs[0].manifest["effect"] == runs[1].manifest["effect"]


def test_merged_experts_cannot_wait_in_the_checkpoint(folders: Any) -> None:
    with pytest.raises(RequestError, match=r"its files cannot be offloaded\n.*--stream"):
        open_model(str(folders("mixtral")), device_map={"": "disk"})


def test_everything_on_the_disk(folders: Any) -> None:
    opened = open_model(str(folders("llama")), device_map={"": "disk"})
    assert all(value.is_meta for value in opened.model.parameters())
    assert entry_device(opened.model) == torch.device("cpu")
    same(measured(opened), measured(open_model(str(folders("llama")), device="cpu")))


def test_watching_and_redistributing_what_the_user_spread(folders: Any) -> None:
    ids = torch.arange(20).view(2, 10) + 5
    models = [
        open_model(str(folders("llama")), device="cpu").model,
        open_model(str(folders("llama")), device_map=spread(folders("llama"))).model,
    ]
    seen, logits, written = [], [], []
    for model in models:
        arm = distviz.ARM(c=0.4, p1=90.0)
        with torch.no_grad(), distviz.redistribute(model, arm, layers=[1, 2]):
            with distviz.watch(model, sites="act,product") as watched:
                logits.append(model(ids).logits)
            made = model.generate(ids[:1], max_new_tokens=4, do_sample=False, pad_token_id=2)
        written.append(made.tolist())
        seen.append(watched.stats())
    assert torch.equal(*logits)
    assert written[0] == written[1]
    assert seen[0].equals(seen[1])


def test_a_sweep_enters_behind_layers_that_wait_on_the_disk(folders: Any) -> None:
    tables = []
    for places in (None, spread(folders("llama"))):
        opened = open_model(str(folders("llama")), device="cpu", device_map=places)
        settings = RunSettings(max_length=16, batch_size=2)
        corpus = corpus_of(read_documents(TEXTS), opened, settings)
        lists = SweepGrid(c="0.13,1", p1="90", arm_layers="1;3")
        grid = sweeps.every_setting(opened, lists, settings, is_by_layer=False)
        swept = sweeps.sweep_model(opened, corpus, settings, grid, [0], 0.05, Progress())
        tables.append(swept.table)
    assert len(tables[0]) == 4
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.filterwarnings("ignore:.*offload.*")
def test_auto_puts_on_the_disk_what_does_not_fit(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Done]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXTS[0])
    args = ["run", folders("llama"), "--text", text, "--no-figures", "--arm-layers", "0,2"]
    assert call(*args, "--out", tmp_path / "plain", "--device", "cpu").code == 0
    size = sum(path.stat().st_size for path in folders("llama").glob("*.safetensors"))
    monkeypatch.setattr(
        "transformers.integrations.accelerate.get_balanced_memory",
        lambda *_a, **_k: {"cpu": int(0.95 * size)},
    )
    done = call(*args, "--out", tmp_path / "auto", "--device-map", "auto")
    assert done.code == 0, done.err
    runs = [distviz.Run.load(tmp_path / name) for name in ("plain", "auto")]
    assert runs[1].manifest["device"] == "several (device map)"
    same(*runs)
    assert runs[0].manifest["effect"] == runs[1].manifest["effect"]


@pytest.mark.parametrize("name", ["cpu", "auto", "sequential"])
def test_what_fits_into_one_place_is_put_there(name: str, folders: Any) -> None:
    opened = open_model(str(folders("llama")), device_map=name)
    assert {value.device.type for value in opened.model.parameters()} == {"cpu"}
    assert measured(opened).manifest["device"] == "cpu"


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_is_no_place_is_refused(folders: Any, call: Callable[..., Done], dry: Any) -> None:
    done = call("run", folders("llama"), "--device-map", "autp", "--out", "x", *dry)
    assert done.code == 2
    assert done.complaint() == [
        "distviz: --device-map is 'autp' (did you mean 'auto'?)",
        "  allowed: auto, balanced, balanced_low_0, sequential, or a device; here are: cpu",
    ]


def test_built_layers_are_in_one_place(call: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "layer.toml").write_text("[layer]\nlayers = 1\n")
    done = call("run", tmp_path / "layer.toml", "--device-map", "auto", "--out", "x")
    assert done.code == 2
    assert done.complaint()[0] == (
        "distviz: --device-map is for checkpoints, not for layers built from a TOML file"
    )


def test_a_device_that_is_not_there_is_named(folders: Any) -> None:
    with pytest.raises(RequestError, match=r"--device-map is 'cuda:99'\n.*here are: cpu"):
        open_model(str(folders("llama")), device_map="cuda:99")
