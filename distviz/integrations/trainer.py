"""A callback of transformers' Trainer that takes snapshots with a `distviz.Monitor`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import TrainerCallback as _Callback

from distviz.errors import RequestError, nearest
from distviz.measure import Monitor


class TrainerCallback(_Callback):
    """Takes snapshots of the model that a Trainer trains.

    ``Trainer(..., callbacks=[TrainerCallback(every=100, out="runs/train")])``. A training that is
    resumed from a checkpoint continues in ``out`` at the checkpoint's step. Evaluations are not
    counted. With mixed precision in float16, gradients are divided by the scale of the loss.

    Parameters
    ----------
    every, out, options
        Those of `distviz.Monitor`; ``start``, ``resume``, ``tokenizer`` and ``scaler`` are taken
        from the Trainer.

    Raises
    ------
    RequestError
        If an option is unknown; when the training begins, see `distviz.Monitor`.
    """

    def __init__(self, every: int = 100, out: str | Path | None = None, **options: Any) -> None:
        known = [*inspect.signature(Monitor).parameters]
        for name in options:
            if name not in known:
                raise RequestError(
                    f"TrainerCallback has no parameter {name}{nearest(name, known)}",
                    f"those of Monitor: {', '.join(known[1:])}",
                )
        self._options = {"every": every, "out": out, **options}
        self._monitor: Monitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach the monitor."""
        del args, control
        self._close()  # after a training that an error has ended
        step = state.global_step
        own = {
            "start": step,
            "resume": step > 0,
            "tokenizer": given.get("processing_class"),
            "scaler": getattr(given.get("optimizer"), "scaler", None),
        }
        self._monitor = Monitor(given["model"], **(own | self._options))
        self._monitor.__enter__()

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin a step of the monitor, after an evaluation."""
        del args, state, control, given
        if self._monitor is not None:
            self._monitor.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """End a step of the monitor."""
        del args, state, control, given
        if self._monitor is not None:
            self._monitor.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Close the monitor."""
        del args, state, control, given
        self._close()

    def _close(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.__exit__(None, None, None)
