"""The recipes of the documentation: ARM inside a pipeline and inside an evaluation harness."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, pipeline

import distviz

pytestmark = pytest.mark.extended

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = ["Anna had 12 apples and", "One morning in January,"]


@pytest.fixture
def model(demo_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(demo_folder).eval()


def test_inside_a_pipeline(model: Any, demo_tokenizer: Any) -> None:
    write = pipeline("text-generation", model=model, tokenizer=demo_tokenizer)
    options = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
    plain = [write(prompt, **options)[0]["generated_text"] for prompt in PROMPTS]
    arm = distviz.ARM(c=1.0)
    with distviz.redistribute(model, arm, layers=[0]):
        changed = [write(prompt, **options)[0]["generated_text"] for prompt in PROMPTS]
    assert changed != plain
    for prompt, text in zip(PROMPTS, changed, strict=True):
        ids = demo_tokenizer(prompt, return_tensors="pt")["input_ids"]
        with distviz.redistribute(model, arm, layers=[0]):
            made = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=2)
        assert demo_tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True) == text
    assert [write(prompt, **options)[0]["generated_text"] for prompt in PROMPTS] == plain


def test_inside_lm_evaluation_harness(model: Any, demo_tokenizer: Any, tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("lm_eval", reason="pip install lm-eval")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lines = [{"q": "12 + 3 =", "a": " 15"}, {"q": "9 - 4 =", "a": " 5"}]
    lines.append({"q": "2 * 6 =", "a": " 12"})
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": "sums", "dataset_path": "json", "test_split": "test",
        "output_type": "loglikelihood",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.jsonl")}},
        "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "perplexity"}],
    }  # fmt: skip
    evaluated = HFLM(pretrained=model, tokenizer=demo_tokenizer, batch_size=1)

    def perplexity() -> float:
        found = lm_eval.simple_evaluate(
            evaluated, tasks=[task], task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0, log_samples=False, verbosity="ERROR",
        )  # fmt: skip
        return float(found["results"]["sums"]["perplexity,none"])

    def by_hand() -> float:
        total = 0.0
        for line in lines:
            context, answer = evaluated._encode_pair(line["q"], line["a"])
            with torch.inference_mode():
                logits = model(torch.tensor([(context + answer)[:-1]])).logits[0].log_softmax(-1)
            total += float(logits[len(context) - 1 :][range(len(answer)), answer].sum())
        return math.exp(-total / len(lines))

    plain = perplexity()
    assert plain == pytest.approx(by_hand(), rel=1e-5)
    with distviz.redistribute(model, distviz.ARM(c=1.0), layers=[0]):
        changed = perplexity()
        assert changed == pytest.approx(by_hand(), rel=1e-5)
    assert changed != pytest.approx(plain, rel=1e-3)
    assert perplexity() == plain
