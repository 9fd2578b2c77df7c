"""200 steps of the demo's training with the callback, interrupted and resumed, by brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.brute_force import assert_stats, eps_of
from support.trainer_hooks import PlainHooks
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
from transformers import TrainerCallback as Callback

import distviz
from distviz.integrations import TrainerCallback
from distviz.results import Training

pytestmark = pytest.mark.slow

DEMO = Path(distviz.__file__).parent / "demo"
STEPS, EVERY = 200, 50
ACT = "model.layers.{}.mlp.act_fn"


class Crash(Callback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 150:
            raise RuntimeError("crash")


def rows_of(tokenizer: Any) -> list[dict[str, Any]]:
    """The demo's documents, padded on the right to 128 tokens."""
    lines = (DEMO / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        ids = tokenizer(json.loads(line)["text"])["input_ids"][:128]
        missing = 128 - len(ids)
        mask = [1] * len(ids) + [0] * missing
        labels = ids + [-100] * missing
        padded = ids + [tokenizer.pad_token_id] * missing
        found.append({"input_ids": padded, "attention_mask": mask, "labels": labels})
    return found


def trainer_of(folder: Path, tokenizer: Any, *make: Any) -> Trainer:
    """A training from random weights; ``make`` are functions of the model."""
    set_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(DEMO)).float()
    args = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=4, report_to="none",
        gradient_accumulation_steps=2, learning_rate=2e-3, save_steps=100, use_cpu=True, seed=1,
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    callbacks = [one(model) for one in make]
    return Trainer(model=model, args=args, train_dataset=rows_of(tokenizer), callbacks=callbacks)


def test_snapshots_equal_plain_hooks_and_a_resumed_training_adds_up(
    tmp_path: Path, demo_tokenizer: Any
) -> None:
    config = AutoConfig.from_pretrained(DEMO)
    layers = range(config.num_hidden_layers)

    def plain(model: Any) -> PlainHooks:
        places = {str(layer): ACT.format(layer) for layer in layers}
        return PlainHooks(model, places, lambda step: step % EVERY == 0)

    def monitor(name: str) -> Any:
        options = {"every": EVERY, "gradients": True, "weights": True}
        return lambda _: TrainerCallback(out=tmp_path / name, **options)

    whole = trainer_of(tmp_path / "t1", demo_tokenizer, plain, monitor("whole"))
    whole.train()
    (hooks,) = [one for one in whole.callback_handler.callbacks if isinstance(one, PlainHooks)]
    training = Training.load(tmp_path / "whole")
    assert training.steps == [0, 50, 100, 150]
    for step in training.steps:
        rows = training.at(step).stats().set_index(["layer", "site"])
        for layer in layers:
            for site, kept in (("act", hooks.values), ("gradient:act", hooks.gradients)):
                values = np.concatenate(kept[step, str(layer)])
                assert len(kept[step, str(layer)]) == 2
                assert_stats(rows.loc[layer, site].to_dict(), values, eps_of(values))
    crashing = trainer_of(tmp_path / "t2", demo_tokenizer, monitor("parts"), lambda _: Crash())
    with pytest.raises(RuntimeError, match="crash"):
        crashing.train()
    again = trainer_of(tmp_path / "t2", demo_tokenizer, monitor("parts"))
    again.train(resume_from_checkpoint=True)
    parts = Training.load(tmp_path / "parts")
    assert parts.steps == training.steps
    pd.testing.assert_frame_equal(parts.timeline, training.timeline)
    for step in training.steps:
        assert parts.at(step).merged == training.at(step).merged
