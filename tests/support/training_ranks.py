"""Trainings of several processes, for torchrun: python training_ranks.py FOLDER KIND...

One training after the other, each in a folder of its kind. Rank 0 and rank 1 see other batches.
Each saves what plain hooks see beside the snapshots.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).parents[1]))

import distviz
from distviz.measure import ranks
from support.padded_models import kept_rows, padded
from support.trained_models import capturing, trainable


def main(folder: Path, *kinds: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for kind in kinds:
        train(kind, folder / kind)
    distributed.destroy_process_group()


def train(kind: str, folder: Path) -> None:
    rank = distributed.get_rank()
    folder.mkdir(exist_ok=True)
    model = trainable()
    plain = model
    wrapped: Any = prepared(kind, model)
    options: dict[str, Any] = {"every": 2, "out": folder / "out", "gradients": True}
    if kind != "fsdp1":
        options["weights"] = True
    if kind == "only first":
        ranks._WAIT = timedelta(seconds=1)
        if rank:
            return
    before = {n: p.detach().clone() for n, p in trainable().model.layers[1].named_parameters()}
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
    kept: dict[str, np.ndarray] = {f"weight:{n}": p.double().numpy() for n, p in before.items()}
    places = {str(n): (f"model.layers.{n}.mlp.act_fn", "output") for n in range(3)}
    with distviz.Monitor(wrapped, **options) as monitor, capturing(plain, places) as take:
        for step in range(3):
            n_micro = 1 if kind == "idle" and rank and step == 2 else 2
            captured = None
            for micro in range(n_micro):
                batch = padded("left" if rank else "right", 10 * step + 2 * micro + rank)
                if kind == "fails" and rank and step == 2:
                    raise_in_hooks(monitor)
                ids, mask = batch
                labels = ids.masked_fill(mask == 0, -100)
                loss = wrapped(input_ids=ids, attention_mask=mask, labels=labels).loss
                (loss / 2).backward()
                captured = take(batch)
            if captured is not None and step % 2 == 0:
                for name in captured.values:
                    kept[f"{step}:act:{name}"] = captured.together("values", name)
                    kept[f"{step}:gradient:{name}"] = captured.together("gradients", name)
                captured.values.clear()
                captured.gradients.clear()
            elif captured is not None:
                captured.values.clear()
                captured.gradients.clear()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step()
    np.savez(folder / f"rank{rank}.npz", **kept)


def prepared(kind: str, model: Any) -> Any:
    """The model as a training wraps it."""
    if kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        policy = ModuleWrapPolicy({type(model.model.layers[0])})
        return FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), auto_wrap_policy=policy
        )
    if kind == "accelerate":
        from accelerate import Accelerator

        return Accelerator(cpu=True).prepare(model)
    return torch.nn.parallel.DistributedDataParallel(model)


def raise_in_hooks(monitor: Any) -> None:
    monitor._observed.fail(RuntimeError("broken"))


if __name__ == "__main__":
    assert kept_rows
    main(Path(sys.argv[1]), *sys.argv[2:])
    os._exit(0)
