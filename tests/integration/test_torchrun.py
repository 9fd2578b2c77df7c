"""Real processes, started by torchrun: the same bytes, one message, no hang."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support import forked, ranks
from support.interrupted import running, wait_for_a_state
from support.tiny_models import save_tiny

pytestmark = pytest.mark.extended

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.commands import Done

SMALL = ["--no-figures", "--quiet", "--threads", "1", "--batch-size", "2", "--max-tokens", "4000"]
FORMATS = ["--formats", "nvfp4,int8-channel,int8-token,int8-asym", "--rotate", "none,hadamard"]
RUN = ["--tokens", "--channels", *FORMATS, *SMALL]
EXACT = (
    *("counts.parquet", "documents.parquet", "channels.parquet", "extremes.csv", "tokens.parquet"),
    *("plans.csv", "stats.csv", "histograms.csv", "classes.csv", "formats.csv"),
)


def _torchrun(size: int, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    command += ["--master-port", ranks.port(), "-m", "distviz", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _messages(error: str) -> list[str]:
    """Return what is said besides the warning about the part of the text that was left out."""
    lines = [line for line in error.splitlines() if "warning: --max-tokens" not in line]
    return [line for line in lines if line.startswith(("distviz: ", "  "))]


def _ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes by rank, and the messages of all together."""
    errors = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    return codes, [line for error in errors for line in _messages(error)]


def _killed(args: Sequence[str | Path], states: Path, victim: int) -> tuple[list[str], str]:
    """Start two processes by torchrun and kill one when both have saved a state.

    Returns
    -------
    The messages of distviz, and everything that was written to stderr.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", ranks.port(), "-m", "distviz", *map(str, args)]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as launcher:
        try:
            end = time.monotonic() + 300
            while len(list(states.glob("*.state"))) < 2:
                assert launcher.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            workers = psutil.Process(launcher.pid).children(recursive=True)
            by_rank = {worker.environ().get("RANK"): worker for worker in workers}
            by_rank[str(victim)].kill()
            error = launcher.communicate(timeout=60)[1]
        finally:
            launcher.kill()
    assert launcher.returncode == 1
    assert not [worker for worker in workers if worker.is_running()]
    return [line for line in _messages(error) if "distviz" in line or "--resume" in line], error


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [*forked.COMMAND, "run", *RUN, "--out", str(out)]
    forked.run(command, check=True, capture_output=True)
    return out


def _assert_same(out: Path, alone: Path) -> None:
    for name in EXACT:
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    effects = [json.loads((one / "run.json").read_text())["effect"] for one in (out, alone)]
    assert effects[0] == effects[1]
    assert not out.with_name(f"{out.name}.partial").exists()


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, alone: Path, size: int
) -> None:
    done = _torchrun(size, "run", *RUN, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    _assert_same(tmp_path / "out", alone)
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["processes"], manifest["threads"]) == (size, 1)


def test_a_dry_run_is_printed_once(tmp_path: Path) -> None:
    done = _torchrun(2, "run", *RUN, "--dry-run", "--json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["processes"] == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_more_processes_than_batches(tmp_path: Path, call: Callable[..., Done]) -> None:
    few = [*RUN, "--max-tokens", "300"]
    assert call("run", *few, "--out", tmp_path / "alone").code == 0
    done = _torchrun(3, "run", *few, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path / "out", tmp_path / "alone")


@pytest.mark.slow
def test_a_real_model_by_two(tmp_path: Path, smollm2: Path, call: Callable[..., Done]) -> None:
    args = [*RUN, "--max-length", "128", "--max-tokens", "1000"]
    assert call("run", smollm2, *args, "--out", tmp_path / "alone").code == 0
    done = _torchrun(2, "run", smollm2, *args, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path / "out", tmp_path / "alone")


@pytest.mark.slow
def test_compare_by_two(tmp_path: Path, alone: Path, demo_folder: Path) -> None:
    small = SMALL[:-2]  # the text is that of the run
    done = _torchrun(2, "compare", alone, demo_folder, *small, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["paired"] is True
    sides = [(tmp_path / "out" / side / "counts.parquet").stat().st_size for side in "ab"]
    assert min(sides) > 10_000


BY_VALUE = (
    *("elementwise.csv", "elementwise_documents.parquet", "elementwise_channels.csv"),
    *("elementwise_tokens.csv", "inference.csv", "compare.csv", "output_documents.parquet"),
)


@pytest.mark.parametrize("stream", [[], pytest.param(["--stream"], marks=pytest.mark.slow)])
def test_values_are_compared_by_several_processes(
    tmp_path: Path, demo_folder: Path, stream: list[str]
) -> None:
    """The same bytes as in one process."""
    args = ["compare", demo_folder, demo_folder, "--b-attn-implementation", "eager"]
    args += ["--elementwise", "--local", *SMALL]
    ranks.finished([*args, "--out", tmp_path / "alone"], 1)
    for size in (2, 3):
        out = tmp_path / f"by {size}"
        ranks.finished([*args, *stream, "--out", out], size)
        for name in BY_VALUE:
            assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
        notes = [
            json.loads((one / "comparison.json").read_text())["elementwise"]
            for one in (out, tmp_path / "alone")
        ]
        assert notes[0] == notes[1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_comparison_of_two_processes_is_resumed(
    tmp_path: Path, tiny_saved: Path, demo_folder: Path, size: int
) -> None:
    args = ["compare", tiny_saved, demo_folder, *SMALL]
    whole, out = tmp_path / "whole", tmp_path / "out"
    ranks.finished([*args, "--out", whole], 1)
    again = [*args, "--out", out, "--save-every", "0"]
    messages, _ = _killed(again, tmp_path / "out.partial" / "b", 1)
    assert "is saved in" in messages[0]
    # The side that was finished is there, whole.
    assert len(list((tmp_path / "out.partial" / "a").glob("*.state"))) == 2
    errors = ranks.finished([*again, "--resume"], size)
    assert "starting from the beginning" not in errors[0]
    for side in "ab":
        for name in EXACT:
            if (whole / side / name).exists():
                assert (out / side / name).read_bytes() == (whole / side / name).read_bytes(), name
    for name in ("compare.csv", "inference.csv", "channels.csv", "classes.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (tmp_path / "out.partial").exists()


# Failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_all_and_any_number_resumes(
    tmp_path: Path, alone: Path, victim: int, call: Callable[..., Done]
) -> None:
    out = tmp_path / "out"
    args = ["run", *RUN, "--out", out, "--save-every", "0"]
    messages, error = _killed(args, tmp_path / "out.partial", victim)
    assert len(messages) == 2, messages
    assert messages[0].startswith("distviz: interrupted by SIGTERM; ")
    assert f"in {tmp_path / 'out.partial'}" in messages[0]
    assert "--resume" in messages[1]
    assert re.search(rf"rank +: {victim} ", error)  # by torchrun
    assert not out.exists()
    assert call("run", *RUN, "--out", out, "--resume").code == 0
    _assert_same(out, alone)


@pytest.mark.slow
def test_two_processes_resume_a_run_of_one(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "out"
    args = ["run", *RUN, "--out", str(out), "--save-every", "0"]
    with running(*args) as one:
        wait_for_a_state(one, tmp_path / "out.partial")
    done = _torchrun(2, *args, "--resume")
    assert done.returncode == 0, done.stderr
    assert "starting from the beginning" not in done.stderr
    _assert_same(out, alone)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    """A tiny mixture of experts."""
    return save_tiny("mixtral", tmp_path_factory.mktemp("models") / "experts", demo_folder)


@pytest.fixture(scope="module")
def experts_alone(tmp_path_factory: pytest.TempPathFactory, experts: Path) -> Path:
    """What one process finds in it."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [*forked.COMMAND, "run", str(experts), *RUN, "--out", str(out)]
    forked.run(command, check=True, capture_output=True)
    return out


def _assert_same_experts(out: Path, alone: Path) -> None:
    _assert_same(out, alone)
    tables = [(one / "experts.csv").read_bytes() for one in (out, alone)]
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") == 1 + 4 * 2 * 4  # layers, phases, experts


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_experts_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, experts: Path, experts_alone: Path, size: int
) -> None:
    args = ["run", experts, *RUN, "--out", tmp_path / "out"]
    ranks.finished(args, size)
    _assert_same_experts(tmp_path / "out", experts_alone)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_mixture_of_experts_is_resumed(
    tmp_path: Path, experts: Path, experts_alone: Path, size: int
) -> None:
    out = tmp_path / "out"
    args = ["run", experts, *RUN, "--out", out, "--save-every", "0"]
    _killed(args, tmp_path / "out.partial", 0)
    errors = ranks.finished([*args, "--resume"], size)
    assert "starting from the beginning" not in errors[0]
    _assert_same_experts(out, experts_alone)


STREAMED = ["--stream", "--layers", "0,2"]


def _log_reads(place: Path) -> str:
    """A program that notes every part of the checkpoint that a process reads."""
    return f"""
import os
from pathlib import Path
from distviz import cli
from distviz.models import lazy_layers
read = lazy_layers.LayersOnDisk._read
def noted(self, path):
    with Path({str(place)!r}, "rank-" + os.environ["RANK"]).open("a") as file:
        file.write(path + chr(10))
    return read(self, path)
lazy_layers.LayersOnDisk._read = noted
cli.main()
"""


@pytest.fixture(scope="module")
def streamed_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process that streams nothing."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [*forked.COMMAND, "run", *RUN, *STREAMED[1:], "--out", str(out)]
    forked.run(command, check=True, capture_output=True)
    return out


def test_each_process_streams_its_batches(tmp_path: Path, streamed_alone: Path) -> None:
    args = ["run", *RUN, *STREAMED, "--out", tmp_path / "out"]
    ranks.finished(args, 2, ("-c", _log_reads(tmp_path)))
    _assert_same(tmp_path / "out", streamed_alone)
    layers = [f"model.layers.{index}" for index in range(6)]
    for rank in (0, 1):
        assert (tmp_path / f"rank-{rank}").read_text().split("\n") == ["", *layers, ""]


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_streamed_run_of_two_processes_is_resumed(
    tmp_path: Path, streamed_alone: Path, size: int
) -> None:
    out = tmp_path / "out"
    args = ["run", *RUN, *STREAMED, "--out", out, "--save-every", "0"]
    _killed(args, tmp_path / "out.partial", 1)
    assert list((tmp_path / "out.partial").glob("*.outputs"))
    errors = ranks.finished([*args, "--resume"], size)
    assert "starting from the beginning" not in errors[0]
    _assert_same(out, streamed_alone)


FAILS = """
import os, sys
from distviz import cli
def broken(*_):
    raise OSError(28, "No space left on device")
if os.environ["RANK"] == "1":
    import distviz.measure.measurement
    distviz.measure.measurement.measure_batch = broken
cli.main()
"""


def test_an_exception_in_one_process_is_reported_once(tmp_path: Path) -> None:
    args = ["run", *RUN, "--out", tmp_path / "out"]
    with ranks.started([args] * 2, program=("-c", FAILS)) as processes:
        codes, messages = _ended(processes)
    assert codes == [1, 1]
    assert len(messages) == 2, messages
    assert messages[0].startswith(f"distviz: rank 1 of 2 ({socket.gethostname()}, process ")
    assert messages[0].endswith("OSError: [Errno 28] No space left on device")
    assert messages[1] == "  run again with --debug to see the traceback"
    assert list(tmp_path.iterdir()) == []


NO_SPACE = """
import os
from distviz import cli
def full(*_, **__):
    raise OSError(28, "No space left on device")
if os.environ["RANK"] == "0":
    {place} = full
cli.main()
"""


def test_a_full_disk_where_the_first_saves_its_state(tmp_path: Path, alone: Path) -> None:
    args = ["run", *RUN, "--out", tmp_path / "out", "--save-every", "0"]
    program = NO_SPACE.format(place="os.fsync")
    errors = ranks.finished(args, 2, ("-c", program))
    message = f"{tmp_path / 'out.partial'} cannot be written (No space left on device)"
    assert sum(error.count(message) for error in errors) == 1
    _assert_same(tmp_path / "out", alone)


@pytest.mark.slow
def test_a_full_disk_where_the_result_is_written(tmp_path: Path) -> None:
    args = ["run", *RUN, "--out", tmp_path / "out"]
    program = "from distviz.results import run\n" + NO_SPACE.format(place="run.Run.write")
    with ranks.started([args] * 2, program=("-c", program)) as processes:
        codes, messages = _ended(processes)
    assert codes == [1, 1]
    assert len(messages) == 2
    assert messages[0].startswith(f"distviz: rank 0 of 2 ({socket.gethostname()}, process ")
    assert messages[0].endswith(f"): {tmp_path / 'out'} cannot be written: No space left on device")
    assert messages[1] == "  free space there, or give another --out"
    assert not [path for path in tmp_path.iterdir() if path.name != "out.partial"]


def test_a_file_that_is_damaged_for_one_process(tmp_path: Path, tiny_saved: Path) -> None:
    for name in "ab":
        shutil.copytree(tiny_saved, tmp_path / name / "model")
    weights = tmp_path / "b" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    args = ["run", "model", *SMALL, "--out", tmp_path / "out"]
    start = f"import os; os.chdir(os.path.join({str(tmp_path)!r}, 'ab'[int(os.environ['RANK'])])); "
    program = ("-c", f"{start}from distviz import cli; cli.main()")
    with ranks.started([args] * 2, program=program) as processes:
        codes, messages = _ended(processes)
    assert codes == [2, 2]
    assert len(messages) <= 2, messages
    assert messages[0].startswith(f"distviz: rank 1 of 2 ({socket.gethostname()}, process ")
    assert "model.safetensors" in messages[0]
    assert not (tmp_path / "out").exists()


def test_other_settings_are_named_before_anything_is_read(tmp_path: Path) -> None:
    args = ["run", *RUN, "--out", tmp_path / "out", "--c"]
    with ranks.started([[*args, "0.2"], [*args, "0.3"]]) as processes:
        codes, messages = _ended(processes)
    assert codes == [2, 2]
    assert messages == [
        "distviz: the processes differ: rank 1 has --c 0.3 (rank 0: 0.2)",
        "  start all with the same command, files and versions",
    ]


VERSION = """
import os
from importlib import metadata
from distviz import cli
known = metadata.version
if os.environ["RANK"] == "1":
    metadata.version = lambda name: "2.9.0" if name == "torch" else known(name)
cli.main()
"""


@pytest.mark.slow
def test_other_versions_and_other_texts_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        (tmp_path / name / "text.txt").write_text(f"A text of {name}.")
    small = [arg for arg in SMALL if arg not in ("--max-tokens", "4000")]
    args = ["run", *small, "--text", "text.txt", "--out", tmp_path / "out"]
    start = "import os; os.chdir('ab'[int(os.environ['RANK'])]); "
    place = f"import os; os.chdir({str(tmp_path)!r}); {start}{VERSION}"
    with ranks.started([args] * 2, program=("-c", place)) as processes:
        codes, messages = _ended(processes)
    assert codes == [2, 2]
    assert len(messages) == 2
    assert messages[0].startswith("distviz: the processes differ: rank 1 has text ")
    assert "torch 2.9.0 (rank 0: " in messages[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("has_launcher", [True, False])
def test_commands_for_one_process_are_refused(has_launcher: bool) -> None:
    commands = [["filler", "demo"]] * 2
    with ranks.started(commands, has_launcher=has_launcher) as processes:
        codes, messages = _ended(processes)
    assert codes == [2, 2]
    expected = [
        "distviz: distviz filler runs in one process",
        "  start it without torchrun or accelerate",
    ]
    # Without a launcher each process may have a terminal of its own.
    assert messages == (expected if has_launcher else expected * 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_others_is_interrupted(tmp_path: Path, rank: int) -> None:
    env = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    command = [sys.executable, "-m", "distviz", "run", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        command,
        env=os.environ | env | {"MASTER_PORT": ranks.port()},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stderr.readline() if rank == 0 and process.stderr else ""
        time.sleep(0 if rank == 0 else 8)
        process.terminate()
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert line == ("distviz: waiting for rank 1 of 2\n" if rank == 0 else "")
    assert error == "distviz: interrupted by SIGTERM, nothing was written\n"


def test_a_device_map_of_b_is_refused_too(tmp_path: Path, demo_folder: Path) -> None:
    args = ["compare", demo_folder, demo_folder, *SMALL, "--out", tmp_path / "out"]
    with ranks.started([[*args, "--b-device-map", "auto"]] * 2) as processes:
        codes, messages = _ended(processes)
    assert codes == [2, 2]
    assert "side B: --device-map spreads the model of one process" in messages[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text", "-"], "--text - cannot be read by several processes"),
        (
            ["--device-map", "auto"],
            "--device-map spreads the model of one process over all devices",
        ),
        (["--layers", "99"], "--layers 99: layer 99 does not exist"),
    ],
)
def test_requests_are_refused_once(tmp_path: Path, flags: list[str], message: str) -> None:
    args = ["run", *RUN, "--out", tmp_path / "out", *flags]
    with ranks.started([args] * 2) as processes:
        codes, messages = _ended(processes)
    assert codes == [2, 2]
    assert message in messages[0]
    assert len(messages) <= 2
