"""Record the activations of a model inside a worker of vLLM.

Tokens of all running requests stand in a row, in chunks that the scheduler chooses. What a worker
runs to warm up or to profile is not scheduled, and is not counted. With tensor parallelism, the
slices of the channels are gathered on the first rank, in the order of the ranks, and counted there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import DistvizError, MeasurementError, RequestError, first_line
from distviz.hooks import Recorder, Tokens, check_fired
from distviz.integrations.vllm_places import Place, find_places
from distviz.output import counted
from distviz.sites import HookPoint, parse_layers
from distviz.stats import encode

if TYPE_CHECKING:
    import torch


@dataclass
class Requests:
    """Numbers the requests of an engine, and tells which tokens of a step are new.

    A request that was preempted is computed again; its tokens are counted once.

    Attributes
    ----------
    n_documents, n_tokens
        Requests seen so far, and their counted tokens.
    n_skipped
        Tokens that were in the engine's cache when a request was first seen.
    """

    n_documents: int = 0
    n_tokens: int = 0
    n_skipped: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _next: dict[str, int] = field(default_factory=dict)

    def schedule(
        self,
        names: Sequence[str],
        scheduled: NDArray[np.int64],
        computed: NDArray[np.int64],
        ids: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]],
    ) -> Tokens:
        """Return the tokens of one step: a row of length 1 for each, in the order of the batch.

        Parameters
        ----------
        names
            The requests of the batch.
        scheduled, computed
            Tokens of each in this step, and before it.
        ids
            Returns token ids by request (its index in the batch) and position, -1 for none.
        """
        for name, start in zip(names, computed.tolist(), strict=True):
            if name not in self._numbers:
                self._numbers[name] = self.n_documents
                self.n_documents += 1
                self.n_skipped += start
                self._next[name] = start
        owner = np.repeat(np.arange(len(names)), scheduled)
        ends = computed + scheduled
        index = np.arange(owner.size) - np.repeat(np.cumsum(scheduled) - ends, scheduled)
        new = index >= np.array([self._next[name] for name in names])[owner]
        self._next |= {
            name: max(self._next[name], end) for name, end in zip(names, ends.tolist(), strict=True)
        }
        self.n_tokens += int(new.sum())
        documents = np.array([self._numbers[name] for name in names])[owner]
        whole = np.ones_like(new)[:, None]
        zeros = np.zeros((owner.size, 1), np.int64)
        return Tokens(
            whole, new[:, None], documents, index[:, None], zeros, ids=ids(owner, index)[:, None]
        )

    def finish(self, names: Collection[str]) -> list[int]:
        """Forget requests that are finished; return their documents."""
        known = [name for name in names if name in self._numbers]
        for name in known:
            del self._next[name]
        return [self._numbers.pop(name) for name in known]


def tokens_of(runner: Any, step: Any, requests: Requests) -> Tokens:
    """Return the tokens of the step that a model runner executes."""
    batch = runner.input_batch
    names = list(batch.req_ids)
    scheduled = np.array([step.num_scheduled_tokens[name] for name in names], np.int64)
    computed = batch.num_computed_tokens_cpu[: len(names)].astype(np.int64)

    def ids(owner: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
        found = batch.token_ids_cpu[owner, index].astype(np.int64)
        return np.where(batch.is_token_ids[owner, index], found, -1)

    return requests.schedule(names, scheduled, computed, ids)


def put_together(rows: torch.Tensor, place: Place, group: Any) -> torch.Tensor | None:
    """Return all channels of (rows, channels of this rank), in the order of the ranks.

    Parameters
    ----------
    place
        Says whether ranks hold different channels, and how many in a row hold the same.
    group
        The tensor-parallel group of vLLM.

    Returns
    -------
    torch.Tensor or None
        None on every rank but the first.
    """
    if place.slices == 1:
        return rows if group.rank_in_group == 0 else None
    # Not gather: that of CPUs waits forever where other exchanges follow.
    whole: torch.Tensor = group.all_gather(rows.contiguous(), dim=-1)
    if group.rank_in_group != 0:
        return None
    if place.copies == 1:
        return whole
    by_rank = whole.reshape(len(whole), place.slices, -1)
    return by_rank[:, :: place.copies].reshape(len(whole), -1)


_REFUSED: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    (
        "compiled code and CUDA graphs, in which hooks do not run",
        lambda config: not config.model_config.enforce_eager,
        "enforce_eager=True",
        "",
    ),
    (
        "speculative decoding, whose rejected tokens would be counted",
        lambda config: config.speculative_config is not None,
        "",
        "leave speculative_config out",
    ),
    (
        "asynchronous scheduling, which computes a token behind the end of a request",
        lambda config: bool(config.scheduler_config.async_scheduling),
        "async_scheduling=False",
        "",
    ),
    (
        "model runner V2, whose batches are unknown here",
        lambda config: bool(getattr(config, "use_v2_model_runner", False)),
        "",
        "set the environment variable VLLM_USE_V2_MODEL_RUNNER=0",
    ),
    (
        "data parallelism",
        lambda config: config.parallel_config.data_parallel_size > 1,
        "data_parallel_size=1",
        "",
    ),
    (
        "context parallelism, in which ranks hold different tokens",
        lambda config: getattr(config.parallel_config, "prefill_context_parallel_size", 1) > 1,
        "prefill_context_parallel_size=1",
        "",
    ),
    (
        "an encoder beside the decoder",
        lambda config: bool(config.model_config.is_encoder_decoder),
        "",
        "measure the checkpoint: distviz run",
    ),
)


def check_engine(config: Any) -> None:
    """Check that hooks see every token of an engine once.

    Raises
    ------
    RequestError
        If the configuration of the engine (`VllmConfig`) does not allow it.
    """
    for what, is_used, argument, advice in _REFUSED:
        if is_used(config):
            hint = advice or f"give {argument} to LLM(…)"
            raise RequestError(f"the engine uses {what}: counting is not possible there", hint)


class Recording:
    """Hooks on the model of one worker, and what they counted.

    Parameters
    ----------
    worker, group
        The worker of vLLM, and its tensor-parallel group.
    sites, layers
        Names of sites, and text such as ``"0,3-5"``.
    c, channels
        As in `distviz.watch`.

    Raises
    ------
    RequestError
        If the engine's configuration or the model does not allow it.
    """

    def __init__(
        self,
        worker: Any,
        group: Any,
        sites: Sequence[str],
        layers: str,
        c: float,
        channels: bool,
    ) -> None:
        check_engine(worker.vllm_config)
        self.runner = worker.model_runner
        self.model = self.runner.get_model()
        self.group = group
        self.places = find_places(self.model)
        chosen = parse_layers(layers, len(self.places.layers), "layers")
        self.chosen = self.places.choose(sites, chosen)
        self.recorder = Recorder(c, channel_details=channels)
        self.requests = Requests()
        self.failure: DistvizError | None = None
        self._fired: set[HookPoint] = set()
        self._now: set[HookPoint] = set()
        self._step: Any = None
        self._layer = -1
        self._tokens: Tokens | None = None
        self._hooks = ExitStack()
        self._attach()

    def _attach(self) -> None:
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for layer, path in enumerate(self.places.layers):
            entered = modules[path].register_forward_pre_hook(
                lambda _m, _args, layer=layer: self._enter(layer), prepend=True
            )
            self._hooks.callback(entered.remove)
        for place in self.chosen:
            module, deliver = modules[place.point.module], partial(self._deliver, place)
            if place.point.takes == "input":
                handle = module.register_forward_pre_hook(
                    lambda _m, args, kwargs, deliver=deliver: deliver(
                        args[0] if args else next(iter(kwargs.values()))
                    ),
                    with_kwargs=True,
                )
            else:
                handle = module.register_forward_hook(
                    lambda _m, _args, value, deliver=deliver: deliver(value)
                )
            self._hooks.callback(handle.remove)
        execute = self.runner.execute_model
        self.runner.execute_model = partial(self._execute, execute)
        self._hooks.callback(delattr, self.runner, "execute_model")

    def _execute(self, execute: Callable[..., Any], step: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a step of the scheduler; what runs outside one is not counted."""
        if self.group.rank_in_group == 0 and self.failure is None:
            self.recorder.documents.close(self.requests.finish(step.finished_req_ids))
            self.recorder.send()
        self._step = step if step.total_num_scheduled_tokens else None
        self._tokens = None
        self._now = set()
        try:
            return execute(step, *args, **kwargs)
        finally:
            self._step = None

    def _enter(self, layer: int) -> None:
        """Note the layer that runs: vLLM's layers may share one activation module."""
        self._layer = layer

    def _deliver(self, place: Place, value: Any) -> None:
        """Record the values at a place; after a failure, ranks still exchange their slices."""
        if self._step is None or self._layer != place.point.layer:
            return
        try:
            read = place.read(value)
            whole = put_together(read.reshape(-1, read.shape[-1]), place, self.group)
            if whole is not None and self.failure is None:
                self._record(place.point, whole)
        except Exception as error:  # noqa: BLE001
            # An error in a hook would end the engine; it is raised where the watching ends.
            where = f"{place.point.module} (site {place.point.site})"
            hint = error.hint if isinstance(error, DistvizError) else ""
            self.failure = self.failure or MeasurementError(f"{where}: {first_line(error)}", hint)

    def _record(self, point: HookPoint, values: torch.Tensor) -> None:
        if self._tokens is None:
            self._tokens = tokens_of(self.runner, self._step, self.requests)
        tokens = self._tokens
        n_tokens = len(tokens.documents)
        if point in self._now:
            raise MeasurementError("runs more than once in a step, for one part of the tokens each")
        if len(values) < n_tokens:
            raise MeasurementError(
                f"{counted(len(values), 'row')} for {counted(n_tokens, 'token')} of the step"
            )
        self._now.add(point)
        self._fired.add(point)
        self.recorder.add(point, "before", values[:n_tokens].contiguous(), tokens)  # then padding

    def state(self) -> dict[str, Any]:
        """Return what was counted so far; only names and places on ranks that count nothing.

        Raises
        ------
        MeasurementError
            If a place could not be recorded, or never ran.
        """
        if self.failure is not None:
            raise self.failure
        found: dict[str, Any] = {
            "architecture": type(self.model).__name__,
            "places": [[place.point.layer, place.point.site] for place in self.chosen],
            "offered": sorted({place.point.site for place in self.places.found}),
        }
        if self.group.rank_in_group == 0:
            if self.requests.n_tokens:
                check_fired([place.point for place in self.chosen], self._fired)
            found["recorder"] = encode(self.recorder.state())
            found["documents"] = self.requests.n_documents
            found["tokens"] = self.requests.n_tokens
            found["skipped"] = self.requests.n_skipped
        return found

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()
