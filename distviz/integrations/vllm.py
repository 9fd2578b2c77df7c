"""Count activations inside a running engine of vLLM.

The engine's workers get hooks and a recorder; what they counted comes back when it is asked for::

    from distviz.integrations import vllm as served

    llm = LLM(
        model,
        enforce_eager=True,
        async_scheduling=False,
        worker_extension_cls="distviz.integrations.vllm.WorkerExtension",
    )
    with served.watch(llm, sites="act") as seen:
        llm.generate(prompts)
    seen.run().save("runs/served")

Importing this module imports neither torch nor Numba: vLLM's engine for CPUs does not start in a
process that is forked from one with Numba.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import DistvizError, MeasurementError, RequestError
from distviz.output import counted
from distviz.sites import SITES, join_layers, parse_sites
from distviz.stats import DEFAULT_C

if TYPE_CHECKING:
    import pandas as pd

    from distviz.integrations.vllm_recording import Recording
    from distviz.results import Run

EXTENSION = "distviz.integrations.vllm.WorkerExtension"
"""The ``worker_extension_cls`` of an engine that `watch` can observe."""

_ERRORS = {error.__name__: error for error in (RequestError, MeasurementError)}


class WorkerExtension:
    """Methods that the workers of an engine get, called by `watch`; they return plain data."""

    distviz_recording: Recording | None = None

    def distviz_start(self, *request: Any) -> dict[str, Any]:
        """Attach the hooks; the request is that of `Recording`."""
        from vllm.distributed import get_tp_group

        from distviz.integrations.vllm_recording import Recording

        def start() -> dict[str, Any]:
            self.distviz_recording = Recording(self, get_tp_group(), *request)
            return self.distviz_recording.state()

        return _answer(start)

    def distviz_state(self) -> dict[str, Any]:
        """Return what this worker counted so far."""
        recording = self.distviz_recording
        return _answer(recording.state) if recording is not None else {}

    def distviz_stop(self) -> None:
        """Remove the hooks."""
        if self.distviz_recording is not None:
            self.distviz_recording.close()
        self.distviz_recording = None


def _answer(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return an answer, or an error as plain data: vLLM passes on only the texts of exceptions."""
    try:
        return ask()
    except DistvizError as error:
        return {"error": [type(error).__name__, error.message, error.hint]}


@dataclass(repr=False)
class EngineResult:
    """The observations of a `watch` so far; grows while the engine runs."""

    llm: Any
    _answers: list[dict[str, Any]] = field(default_factory=list)
    _is_running: bool = True

    def answers(self) -> list[dict[str, Any]]:
        """Return what every worker counted.

        Raises
        ------
        MeasurementError
            If a worker could not record a chosen place.
        """
        if self._is_running:
            self._answers = _call(self.llm, "distviz_state")
        return self._answers

    def finish(self) -> None:
        """Take the result; the engine is asked no more."""
        self._answers, self._is_running = self.answers(), False

    def __repr__(self) -> str:
        """Return a line: the model, and how much was observed."""
        first = self.answers()[0]
        seen = [counted(first["documents"], "request"), counted(first["tokens"], "token")]
        return f"{type(self).__name__}: {' · '.join([first['architecture'], *seen])}"

    def run(self) -> Run:
        """Return all observations so far as a `Run`; every request is a document."""
        from distviz.hooks import Recorder, run_of
        from distviz.stats import decode

        answers = self.answers()
        recorders = [
            Recorder.from_state(decode(one["recorder"])) for one in answers if "recorder" in one
        ]
        first = answers[0]
        config = self.llm.model_config
        skipped = first["skipped"]
        note = (
            f"{counted(skipped, 'token')} of the requests were in the engine's cache: they were "
            "not computed again and are not counted"
        )
        return run_of(
            reduce(add, recorders),
            model={"name": Path(config.model).name, "architecture": first["architecture"]},
            text={"documents": first["documents"], "tokens": first["tokens"]},
            warnings=[note] if skipped else [],
            tokenizer=None if config.skip_tokenizer_init else self.llm.get_tokenizer(),
        )

    def stats(self) -> pd.DataFrame:
        """Return one row per layer and site: the columns of ``stats.csv``."""
        return self.run().stats()

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write a run folder, see `Run.save`."""
        return self.run().save(folder, force=force)


@contextmanager
def watch(
    llm: Any,
    layers: str | int | Collection[int] = "all",
    sites: str | Sequence[str] = "act",
    *,
    c: float = DEFAULT_C,
    channels: bool = False,
) -> Iterator[EngineResult]:
    """Observe the model of an engine while the context lasts.

    Every token that the engine computes for a request is counted once, also where the request is
    preempted and computed again; what the engine computes to warm up is not counted. The channels
    of tensor-parallel ranks are put together, and the layers of pipeline stages.

    Parameters
    ----------
    llm
        An engine of vLLM (``vllm.LLM``), made with ``enforce_eager=True``,
        ``async_scheduling=False`` and ``worker_extension_cls=EXTENSION``.
    layers
        0-based indices, or text such as ``"0,3-5"``.
    sites
        Names of `distviz.sites.SITES`. vLLM computes the activation and the product in one kernel:
        ``act`` is what the same kernel returns for the gate and ones, in the model's dtype.
    c
        Width of the near-zero band of the statistics.
    channels
        Whether to record also the kurtosis of each channel, and in how many tokens it has the
        largest magnitude.

    Raises
    ------
    RequestError
        If the engine was made without the extension, or works in a way in which values would be
        missed or counted twice; if a layer or site does not exist in the model.
    MeasurementError
        On leaving, if a chosen place could not be recorded, or never ran.
    """
    names = parse_sites(sites if isinstance(sites, str) else ",".join(sites))
    for name in names:
        if name not in SITES:
            raise RequestError(f"{name} cannot be observed in vLLM", f"allowed: {', '.join(SITES)}")
    if not isinstance(layers, str):
        layers = join_layers([layers] if isinstance(layers, int) else layers)
    _check_extension(llm)
    if any(_call(llm, "distviz_state")):
        raise RequestError("the engine is watched already", "leave the other watch first")
    result = EngineResult(llm)
    try:
        check_sites(_call(llm, "distviz_start", names, layers, c, channels), names)
        yield result
        result.finish()
    finally:
        llm.collective_rpc("distviz_stop")


def check_sites(answers: Sequence[dict[str, Any]], sites: Collection[str]) -> None:
    """Check that each site exists in a chosen layer of a pipeline stage.

    Raises
    ------
    RequestError
        Otherwise.
    """
    found = {site for one in answers for _, site in one["places"]}
    offered = {site for one in answers for site in one["offered"]}
    for site in sites:
        if site not in found:
            where = "the chosen layers of " if site in offered else ""
            raise RequestError(
                f"site '{site}' ({SITES[site]}) does not exist in {where}"
                f"{answers[0]['architecture']} as vLLM runs it",
                f"there are: {', '.join(name for name in SITES if name in offered)}",
            )


def _call(llm: Any, method: str, *args: Any) -> list[dict[str, Any]]:
    """Call a method of all workers; raise the first error among their answers."""
    answers: list[dict[str, Any]] = llm.collective_rpc(method, args=args)
    for one in answers:
        if "error" in one:
            kind, message, hint = one["error"]
            raise _ERRORS.get(kind, MeasurementError)(message, hint)
    return answers


def _check_extension(llm: Any) -> None:
    """Check that the engine's workers have the methods of `WorkerExtension`."""
    name = llm.llm_engine.vllm_config.parallel_config.worker_extension_cls
    module, _, member = name.rpartition(".")
    given = getattr(import_module(module), member, None) if module else None
    if not (isinstance(given, type) and issubclass(given, WorkerExtension)):
        raise RequestError(
            "the workers of this engine have no recorder",
            f'give worker_extension_cls="{EXTENSION}" to LLM(…)',
        )
