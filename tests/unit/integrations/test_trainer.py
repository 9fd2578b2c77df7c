"""The callback in a Trainer, against plain hooks in the same training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import assert_stats, eps_of, hook_count
from support.padded_models import padded
from support.trained_models import trainable
from support.trainer_hooks import PlainHooks
from transformers import Trainer, TrainingArguments
from transformers import TrainerCallback as Callback

from distviz.errors import RequestError
from distviz.integrations import TrainerCallback
from distviz.results import Training


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows with their padding."""

    def __init__(self, number: int) -> None:
        self.rows = []
        for seed in range(number // 3):
            ids, mask = padded("right" if seed % 2 else "left", seed)
            labels = ids.masked_fill(mask == 0, -100)
            columns = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            self.rows += [{name: rows[n] for name, rows in columns.items()} for n in range(3)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


class Stop(Callback):
    """Ends the training in the middle, as a crash does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("crash")


def trainer_of(model: Any, folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    given: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 3, "max_steps": 8,
        "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        "save_steps": 4, "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 3,
        "learning_rate": 1e-2, "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    return Trainer(
        model=model,
        args=TrainingArguments(**(given | options)),
        train_dataset=Rows(48),
        eval_dataset=Rows(6),
        callbacks=[*callbacks],
    )


def test_snapshots_of_a_training_with_accumulation_and_evaluations(tmp_path: Path) -> None:
    model = trainable()
    plain = PlainHooks(model, {"1": "model.layers.1.mlp.act_fn"}, lambda step: step % 2 == 0)
    before = hook_count(model)
    callback = TrainerCallback(every=2, out=tmp_path / "a", gradients=True)
    trainer_of(model, tmp_path / "t", plain, callback).train()
    assert hook_count(model) == before
    training = Training.load(tmp_path / "a")
    assert training.steps == [0, 2, 4, 6]
    for step in training.steps:
        rows = training.at(step).stats().set_index(["layer", "site"])
        for site, kept in (("act", plain.values), ("gradient:act", plain.gradients)):
            assert len(kept[step, "1"]) == 2
            values = np.concatenate(kept[step, "1"])
            assert_stats(rows.loc[1, site].to_dict(), values, eps_of(values))


def test_a_resumed_training_adds_up(tmp_path: Path) -> None:
    whole = TrainerCallback(every=1, out=tmp_path / "whole")
    trainer_of(trainable(), tmp_path / "t1", whole).train()
    first = TrainerCallback(every=1, out=tmp_path / "parts")
    crashing = trainer_of(trainable(), tmp_path / "t2", first, Stop(6))
    with pytest.raises(RuntimeError, match="crash"):
        crashing.train()
    assert Training.load(tmp_path / "parts").steps[-1] in (4, 5)
    again = TrainerCallback(every=1, out=tmp_path / "parts")
    trainer_of(trainable(), tmp_path / "t2", again).train(resume_from_checkpoint=True)
    a, b = Training.load(tmp_path / "whole"), Training.load(tmp_path / "parts")
    assert a.steps == b.steps == [*range(8)]
    pd.testing.assert_frame_equal(a.timeline, b.timeline)
    with pytest.raises(RequestError, match="exists"):
        trainer_of(trainable(), tmp_path / "t3", whole).train()


def test_options_are_those_of_the_monitor() -> None:
    with pytest.raises(RequestError, match=r"no parameter gradient \(did you mean 'gradients'"):
        TrainerCallback(gradient=True)


def test_the_package_does_not_import_transformers() -> None:
    code = "import sys, distviz.integrations as i; i.TOOLS; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
