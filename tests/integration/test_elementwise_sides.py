"""`compare --elementwise`: sides of every kind, every column recomputed from raw values."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.brute_force import Measured
from support.brute_places import (
    FedBy,
    assert_pairs,
    at,
    exllama_sqnr,
    llama_places,
    measure_texts,
    rows_at,
    shown,
    torchao_sqnr,
)
from support.packages import need
from support.quantized_checkpoints import unpacked, write_compressed
from support.texts import TEXTS
from support.tiny_models import edit_config, save_tiny_llama, save_tokenizer
from transformers import AutoModelForCausalLM

import distviz
from distviz.errors import RequestError
from distviz.results import Comparison
from distviz.settings import RunSettings

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

EXTENDED = pytest.mark.extended
LENGTH = 24


def compare(a: Any, b: Any, folder: Path, texts: Iterable[str] = TEXTS, **own: Any) -> Comparison:
    """Compare value by value; options of the measurement and of `distviz.compare`."""
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"{number}.txt")
        files[-1].write_text(text, encoding="utf-8")
    of_compare = [name for name in own if name.startswith(("b_", "local", "phase_"))]
    given = {name: own.pop(name) for name in of_compare}
    own = {"text": [*map(str, files)], "max_length": LENGTH, "device": "cpu"} | own
    settings = RunSettings(**own)
    return distviz.compare(a, b, settings=settings, given=frozenset(own), elementwise=True, **given)


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def check(
    found: Comparison,
    a: Measured,
    b: Measured,
    tokenizer: Any,
    phases: tuple[str, str] = ("before", "before"),
    own: Measured | None = None,
) -> None:
    """Compare all tables at all places with the values that plain hooks saw."""
    listed = found.elementwise["elementwise"]
    places = {key[:2] for key in a.values if key[2] == "before"}
    assert set(zip(listed["layer"], listed["site"], strict=True)) == places
    for layer, site in places:
        sides = [
            rows_at(one, (layer, site, phase)) for one, phase in zip((a, b), phases, strict=True)
        ]
        alone = None if own is None else rows_at(own, (layer, site, "before"))
        tables = at(found.elementwise, layer, site)
        assert_pairs(tables, *sides, partial(shown, tokenizer), alone)


def compare_and_check(
    paths: tuple[Path, Path], models: tuple[Any, ...], tokenizer: Any, folder: Path, **own: Any
) -> Comparison:
    found = compare(*paths, folder, local=True, **own)
    size = own.get("batch_size", 4)
    a, b, alone = (
        measure_texts(one, tokenizer, TEXTS, LENGTH, size) for one in (*models, FedBy(*models))
    )
    check(found, a, b, tokenizer, own=alone)
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    return save_tiny_llama(folder, demo_folder, hidden_size=128, intermediate_size=256)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 3},
        pytest.param({"batch_size": 1}, marks=EXTENDED),
        pytest.param({"batch_size": 2, "stream": True}, marks=EXTENDED),
    ],
)
def test_an_edited_checkpoint(
    options: dict[str, Any],
    demo_folder: Path,
    demo_tokenizer: Any,
    tmp_path: Path,
) -> None:
    models = [load(demo_folder, dtype=torch.float32) for _ in range(2)]
    with torch.no_grad():
        models[1].model.layers[3].mlp.down_proj.weight[5, 7] += 1.0
    paths = []
    for name, model in zip("ab", models, strict=True):
        paths.append(tmp_path / name)
        model.save_pretrained(paths[-1])
        save_tokenizer(demo_folder, paths[-1])
    compare_and_check((paths[0], paths[1]), (*models,), demo_tokenizer, tmp_path, **options)


@pytest.mark.parametrize("bits", [pytest.param(8, marks=EXTENDED), 4])
def test_compressed_tensors_and_their_source(
    bits: int, plain: Path, demo_folder: Path, demo_tokenizer: Any, tmp_path: Path
) -> None:
    folder = write_compressed(plain, tmp_path / f"int{bits}", demo_folder, bits)
    other = load(plain)
    other.load_state_dict(unpacked(folder, plain))
    models = (load(plain), other)
    found = compare_and_check((plain, folder), models, demo_tokenizer, tmp_path, batch_size=3)
    note = found.manifest["elementwise"]
    assert (note["first"]["layer"], note["first"]["site"]) == (0, "attention")
    worst = found.elementwise["elementwise"]["sqnr_db"].min()
    assert {8: 30, 4: 8}[bits] < worst < {8: 45, 4: 20}[bits]


def test_an_adapter_and_its_base(plain: Path, demo_tokenizer: Any, tmp_path: Path) -> None:
    peft = need("peft")
    torch.manual_seed(9)
    targets = ["down_proj"]
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=targets,
        layers_to_transform=[1],
    )  # fmt: skip
    adapted = peft.get_peft_model(load(plain), lora).eval()
    adapted.save_pretrained(tmp_path / "lora")
    paths, models = (plain, tmp_path / "lora"), (load(plain), adapted.get_base_model())
    found = compare_and_check(paths, models, demo_tokenizer, tmp_path)
    note = found.manifest["elementwise"]
    assert (note["first"]["layer"], note["first"]["site"]) == (1, "residual")
    with pytest.raises(RequestError, match="cannot be streamed: its adapter"):
        compare(*paths, tmp_path, stream=True)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize(
    ("dtypes", "stream"),
    [
        (("fp32", "bf16"), False),
        pytest.param(("bf16", "fp32"), True, marks=EXTENDED),
        pytest.param(("fp16", "bf16"), False, marks=EXTENDED),
    ],
)
def test_one_model_in_two_dtypes(
    dtypes: tuple[str, str], stream: bool, plain: Path, demo_tokenizer: Any, tmp_path: Path
) -> None:
    models = tuple(load(plain, dtype=DTYPES[one]) for one in dtypes)
    own = {"dtype": dtypes[0], "b_dtype": dtypes[1], "stream": stream, "batch_size": 1 + stream}
    found = compare_and_check((plain, plain), models, demo_tokenizer, tmp_path, **own)
    verdict = found.manifest["elementwise"]["verdict"]
    assert verdict.startswith("no place differs by more than rounding")


def test_64_bits_are_not_rounded(
    plain: Path, demo_folder: Path, demo_tokenizer: Any, tmp_path: Path
) -> None:
    double = tmp_path / "double"
    models = (load(plain), load(plain, dtype=torch.float64))
    models[1].save_pretrained(double)
    save_tokenizer(demo_folder, double)
    compare_and_check((plain, double), models, demo_tokenizer, tmp_path)
    compare_and_check((double, plain), models[::-1], demo_tokenizer, tmp_path)


def test_one_model_with_two_kinds_of_attention(
    plain: Path, demo_tokenizer: Any, tmp_path: Path
) -> None:
    models = (load(plain), load(plain, attn_implementation="eager"))
    own = {"b_attn_implementation": "eager", "batch_size": 2}
    found = compare_and_check((plain, plain), models, demo_tokenizer, tmp_path, **own)
    assert found.manifest["elementwise"]["first"] is None
    errors = found.elementwise["elementwise"]["relative_error"]
    assert 0 < errors.max() < 1e-5


@pytest.mark.parametrize(
    ("options", "acts"),
    [
        ({"b_arm_layers": "0,1", "b_arm_mode": "add", "b_p1": 10.0}, ([], [0, 1])),
        pytest.param(
            {"arm_layers": "1", "phase_a": "after", "b_arm_layers": "none"},
            ([1], []),
            marks=EXTENDED,
        ),
        ({"arm_layers": "1", "phase_a": "after", "b_arm_layers": "0"}, ([1], [0])),
    ],
)
def test_arm_on_either_side(
    options: dict[str, Any],
    acts: tuple[list[int], list[int]],
    plain: Path,
    demo_tokenizer: Any,
    tmp_path: Path,
) -> None:
    found = compare(plain, plain, tmp_path, **options)
    names = {"b_arm_mode": "mode", "b_p1": "p1"}
    arm = {names[name]: value for name, value in options.items() if name in names}
    sides = [
        measure_texts(load(plain), demo_tokenizer, TEXTS, LENGTH, 4, layers, **arm)
        for layers in acts
    ]
    phases = tuple("after" if layers else "before" for layers in acts)
    check(found, *sides, demo_tokenizer, phases)
    note = found.manifest["elementwise"]
    assert (note["first"]["layer"], note["first"]["site"]) == (min(acts[0] + acts[1]), "act")


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize(
    ("told", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "torchao", "quant_type": "int8"}, "torchao"),
    ],
)
def test_a_side_that_needs_a_package(
    told: dict[str, Any], package: str, side: str, plain: Path, tiny_llama: Path, call: Any
) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    edit_config(tiny_llama, quantization_config=told)
    sides = (tiny_llama, plain) if side == "A" else (plain, tiny_llama)
    done = call("compare", *sides, "--elementwise", "-o", "out")
    assert (done.code, done.out) == (2, "")
    message, hint = done.complaint()
    assert f"{tiny_llama.name}' is quantized by" in message
    assert "pip install" in hint
    assert package in hint
    assert list(Path.cwd().iterdir()) == []


# Published formulas -------------------------------------------------------------------------


def test_the_sqnr_is_that_of_other_tools(plain: Path, demo_tokenizer: Any, tmp_path: Path) -> None:
    texts = [text[:60] for text in TEXTS]  # one window each
    tables = compare(plain, plain, tmp_path, texts, b_dtype="bf16").elementwise
    models = (load(plain), load(plain, dtype=torch.bfloat16))
    sides = [measure_texts(one, demo_tokenizer, texts, LENGTH, 4) for one in models]
    for layer, site in llama_places(2):
        rows, documents = (
            at(tables, layer, site)[name] for name in ("elementwise", "elementwise_documents")
        )
        a, b = (rows_at(one, (layer, site, "before")) for one in sides)
        assert rows["sqnr_db"].item() == pytest.approx(torchao_sqnr(a.values, b.values), rel=1e-10)
        samples = [
            [side.values[side.tokens[:, 0] == number] for number in range(len(texts))]
            for side in (b, a)
        ]
        expected = exllama_sqnr(*samples, eps=0.0)
        assert documents["sqnr_db"].mean() == pytest.approx(expected, rel=1e-10)


# Unusual values and texts -------------------------------------------------------------------


def _edited(folder: Path, target: Path, change: Callable[[Any], None]) -> tuple[Path, Any]:
    """Save a model with other weights; return both."""
    model = load(folder)
    with torch.no_grad():
        change(model)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, target / name)
    return target, model


def _last(model: Any) -> None:
    model.model.layers[-1].mlp.down_proj.weight[3, 4] += 0.5


@pytest.mark.parametrize(
    "texts",
    [
        [TEXTS[1]],
        ["a", "9"],
        [TEXTS[0]] * 3,
        pytest.param(["a\r\nb\r\r c\n\n", "NA", "null nan", "\x1b[31m x\x07"], id="controls"),
    ],
)
def test_unusual_texts(texts: list[str], plain: Path, demo_tokenizer: Any, tmp_path: Path) -> None:
    other, model = _edited(plain, tmp_path / "other", _last)
    length = 2 if texts[0] == "a" else LENGTH
    found = compare(plain, other, tmp_path, texts, max_length=length)
    found.save(tmp_path / "saved")
    sides = [measure_texts(one, demo_tokenizer, texts, length, 4) for one in (load(plain), model)]
    for tables in (found, Comparison.load(tmp_path / "saved")):
        check(tables, *sides, demo_tokenizer)


@pytest.mark.parametrize("is_a", [True, False])
def test_values_that_are_not_finite(
    is_a: bool, plain: Path, demo_tokenizer: Any, tmp_path: Path
) -> None:
    token = demo_tokenizer(TEXTS[0])["input_ids"][2]

    def change(model: Any) -> None:
        model.model.embed_tokens.weight[token, 3] = math.nan
        model.model.layers[1].mlp.down_proj.weight[3, 4] = math.inf

    other, model = _edited(plain, tmp_path / "other", change)
    paths, models = (plain, other), (load(plain), model)
    if is_a:
        paths, models = paths[::-1], models[::-1]
    found = compare_and_check(paths, models, demo_tokenizer, tmp_path)
    note = found.manifest["elementwise"]
    assert (note["left_out"]["layer"], note["left_out"]["site"]) == (0, "attention")
    assert note["left_out"]["pairs"] == found.elementwise["elementwise"]["left_out"].sum()
    assert "left out because one is not finite, first at layer 0, attention" in note["verdict"]
    assert "all values are equal" not in note["verdict"]
