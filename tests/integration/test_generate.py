"""`distviz generate`: both sides equal to transformers' own; what is printed; bad input."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.tiny_models import save_tiny_llama
from transformers import AutoModelForCausalLM

import distviz
from distviz.studies.generation import diversity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.commands import Done

PROMPT = "Anna had 12 apples and"


def _continue(folder: Path, tokenizer: Any, **options: Any) -> list[str]:
    """What transformers writes, with whatever is active on the model it is given."""
    model = options.pop("model", None) or AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    torch.manual_seed(options.pop("seed", 0))
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20,
        **({"do_sample": False} | options), pad_token_id=2,
    )  # fmt: skip
    return [tokenizer.decode(row, skip_special_tokens=True) for row in made[:, ids.shape[1] :]]


def test_both_sides_are_what_transformers_writes(
    call: Callable[..., Done], demo_folder: Path, demo_tokenizer: Any
) -> None:
    done = call("generate", "--prompt", PROMPT, "--max-new-tokens", 20, "--c", 1, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    model = AutoModelForCausalLM.from_pretrained(demo_folder).eval()
    assert said["before"] == _continue(demo_folder, demo_tokenizer, model=model)
    with distviz.redistribute(model, distviz.ARM(c=1.0)):
        assert said["after"] == _continue(demo_folder, demo_tokenizer, model=model)
    assert said["before"] != said["after"]
    first, second = (demo_tokenizer(said[side][0])["input_ids"][1:] for side in ("before", "after"))
    shared = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert said["same_tokens"] == [shared]


def test_both_sides_draw_the_same_numbers(
    call: Callable[..., Done], demo_folder: Path, demo_tokenizer: Any
) -> None:
    options = ("--prompt", PROMPT, "--max-new-tokens", 20, "--json", "--seed", 5)
    sampled = (*options, "--temperature", 0.8, "--num-samples", 3)
    said = json.loads(call("generate", *sampled).out)
    expected = _continue(
        demo_folder, demo_tokenizer, seed=5, do_sample=True, temperature=0.8, top_k=0,
        num_return_sequences=3,
    )  # fmt: skip
    assert said["before"] == expected
    assert json.loads(call("generate", *sampled).out)["after"] == said["after"]
    # A change that moves nothing leaves every text as it is.
    still = json.loads(call("generate", *sampled, "--redistribution", "scale:1").out)
    assert still["before"] == still["after"] == expected


def test_diversity_counts_pairs_within_samples() -> None:
    assert diversity([[1, 2, 1, 2]]) == 2 / 3
    assert diversity([[1, 2], [1, 2], [2, 1]]) == 2 / 3
    assert diversity([[7], []]) is None


def test_the_terminal_sets_both_sides_in_80_columns(call: Callable[..., Done]) -> None:
    done = call("generate", "--prompt", PROMPT, "--c", 1, "--max-new-tokens", 30)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("ARM off" in line and "ARM on" in line for line in lines)
    assert f"prompt (8 tokens): {PROMPT}" in lines
    assert any(line.startswith(("the same", "different from the first")) for line in lines)
    quiet = call("generate", "--prompt", PROMPT, "--c", 1, "--max-new-tokens", 30, "--quiet")
    said = json.loads(
        call("generate", "--prompt", PROMPT, "--c", 1, "--max-new-tokens", 30, "--json").out
    )
    assert quiet.out == said["after"][0] + "\n"


def test_prompt_from_standard_input(
    call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    said = json.loads(call("generate", "--prompt", "-", "--max-new-tokens", 3, "--json").out)
    assert said["prompt"] == PROMPT


def test_chat_template(call: Callable[..., Done], tmp_path: Path, demo_folder: Path) -> None:
    folder = save_tiny_llama(tmp_path / "chatty", demo_folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}!"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    options = ("generate", folder, "--prompt", "2 + 2", "--max-new-tokens", 2, "--json")
    wrapped = json.loads(call(*options, "--system", "Count.", "--chat-template").out)
    plain = json.loads(call(*options, "--system", "<system>Count.<user>").out)
    assert wrapped["prompt_tokens"] > plain["prompt_tokens"] - 1
    done = call("generate", "--prompt", "2", "--chat-template")
    assert (done.code, "no chat template" in done.err) == (2, True)


@pytest.mark.parametrize("extra", [(), ("--c", 0.7), ("--arm-layers", "2,4")])
def test_settings_are_proposed_from_the_prompt_alone(
    call: Callable[..., Done], demo_folder: Path, demo_tokenizer: Any, extra: tuple[Any, ...]
) -> None:
    options = ("--prompt", PROMPT, "--max-new-tokens", 12, *extra)
    done = call("generate", *options, "--preset", "auto", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    model = AutoModelForCausalLM.from_pretrained(demo_folder).eval()
    layer = 2 if "--arm-layers" in extra else 0
    seen: list[torch.Tensor] = []
    hook = model.model.layers[layer].mlp.act_fn.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    model(demo_tokenizer(PROMPT, return_tensors="pt")["input_ids"])
    hook.remove()
    values = seen[0].double()
    share = float((values.abs() < 0.1 * values.std(correction=0)).double().mean())
    assert 0.01 < share < 0.5  # the rule then says c = 0.32, p1 = 90
    assert said["preset"]["name"] == "proposed"
    assert f"layer {layer}: {share:.0%} of the values" in said["preset"]["evidence"]
    explicit = ("--c", 0.7 if "--c" in extra else 0.32, "--p1", 90)
    same = json.loads(call("generate", *options, *explicit, "--json").out)
    assert (said["arm"], said["after"]) == (same["arm"], same["after"])
    shown = " ".join(call("generate", *options, "--preset", "auto").out.split())
    assert f"proposed: layer {layer}: {share:.0%} of the values" in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", "  "], "--prompt is empty"),
        (["--prompt", "a", "--num-samples", "3"], "would be the same text 3 times"),
        (["--prompt", "a", "--num-samples", "0"], "--num-samples is 0, it must be at least 1"),
        (["--prompt", "a", "--temperature", "0"], "--temperature is 0.0, it must be above 0"),
        (["--prompt", "a", "--top-p", "2"], "--top-p 2 may be 2%"),
        (["--prompt", "a", "--on", "never"], "--on is 'never'"),
        (["--prompt", "a", "--arm-layers", "none"], "leaves nothing to compare"),
        (["--prompt", "a", "--arm-layers", "44"], "layer 44 does not exist"),
        (["--prompt", "a", "--preset", "nobody"], "unknown preset 'nobody'"),
        ([], "missing option"),
    ],
)
def test_bad_input(call: Callable[..., Done], args: list[str], message: str) -> None:
    done = call("generate", *args)
    assert done.code == 2
    assert message in done.err.lower() or message in done.err
    assert len(done.complaint()) <= 2
