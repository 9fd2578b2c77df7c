"""Text for the terminal: whole expected output, and the numbers in it against raw values."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console
from support.synthetic_extremes import PLANTED, planted
from support.synthetic_runs import Synthetic, place, run_of, silu_run

from distviz.cli.views import run as tables
from distviz.cli.views.run import layer_details

if TYPE_CHECKING:
    from distviz.results.run import Run

STATS = """

        near-0            std         max/std           Gini              W1
 layer  before  after  before  after   before  after  before  after    / std
 ───────────────────────────────────────────────────────────────────────────
 0 ARM   5.40%  0.24%   0.260  0.276     6.73   6.34   0.443  0.423   0.0651
 1       3.49%  3.56%   0.407  0.407     6.95   6.91   0.458  0.458  0.00258
 2       2.48%  2.47%   0.556  0.557     7.92   7.92   0.491  0.492  0.00233

not shown: values, kurtosis, max, min (see a wider terminal, stats.csv, --json)
"""

HISTOGRAM = """
before   ▂▂▅▆▃▄▃▁▁
         ██████████▅▄▂
        ▅██████████████▇▆▅▃▁▂▁
        ██████████████████████▇▇▅▅▅▄▃▃▂▂▂▁▁▁▁▁▁ ▁
after    ▃▃▆█▅▅▄▂
         ████████ ▇▆▄▃
        ▆████████ █████▇▇▅▃▁▂▁
        █████████▁████████████▇▇▅▅▅▄▃▃▃▂▂▂▂▂▂▂▁▁▁
-0.319           0                                1.15
"""

IN_LATIN_1 = """
The output changes too much: loss 2.5000 -> 2.6250 nats (+0.1250), KL 0.0125,
top-1 agreement 93.8 %; the loss may rise by at most 0.1 nats.
Settings that keep it are found by
  distviz run --preset auto
  distviz sweep

synthetic | silu | 3 layers | 256 tokens in 4 documents | bf16
ARM in layer 0 | c = 0.13, p1 = 99.5 | moved 1,321 values (5.38 %)

        near-0            std         max/std           Gini              W1
 layer  before  after  before  after   before  after  before  after    / std
 ---------------------------------------------------------------------------
 0 ARM   5.40%  0.24%   0.260  0.276     6.73   6.34   0.443  0.423   0.0651
 1       3.49%  3.56%   0.407  0.407     6.95   6.91   0.458  0.458  0.00258
 2       2.48%  2.47%   0.556  0.557     7.92   7.92   0.491  0.492  0.00233

not shown: values, kurtosis, max, min (see a wider terminal, stats.csv, --json)
near-0: abs(x) < eps; max/std: largest abs(x) in std; W1: before to after

layer 0 (first) | act
before   ..-=:::
         ##########-:.
        -##############+=-: .
        ######################++---:::...
after    ::=#--:.
         ######## +=::
        =######## #####++-: .
        ######### ############++---::::.......
-0.319           0                                1.15
"""


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    return silu_run()


def _shown(
    build: Any, *, encoding: str = "utf-8", width: int = 80, color: str | None = None
) -> str:
    """Print to a console of this encoding; trailing blanks do not count."""
    raw = io.BytesIO()
    console = Console(
        file=io.TextIOWrapper(raw, encoding=encoding, errors="strict"),
        width=width,
        highlight=False,
        force_terminal=color is not None,
        color_system=color,
    )
    console.print(build(console))
    console.file.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    return "\n" + "\n".join(line.rstrip() for line in lines) + "\n"


def test_stats_table_at_80_columns(synthetic: Synthetic) -> None:
    assert _shown(lambda console: tables.stats_table(synthetic.run)) == STATS


def test_the_numbers_are_those_of_the_raw_values(synthetic: Synthetic) -> None:
    line = next(line for line in STATS.splitlines() if line.startswith(" 0 ARM"))
    cells = line.split()[2:]
    before, after = (synthetic.raw[0, phase] for phase in ("before", "after"))
    eps = synthetic.run.bands[place(0, "before")]
    near = [f"{100 * (np.abs(raw) < eps).mean():.2f}%" for raw in (before, after)]
    ordered = np.sort(before), np.sort(after)
    distance = np.abs(ordered[0] - ordered[1]).mean() / before.std()
    assert cells == [
        *near,
        *(f"{raw.std():.3f}" for raw in (before, after)),
        *(f"{np.abs(raw).max() / raw.std():.2f}" for raw in (before, after)),
        *(f"{_gini(raw):.3f}" for raw in (before, after)),
        f"{distance:.4f}",
    ]


def _gini(raw: Any) -> float:
    magnitudes = np.sort(np.abs(raw))
    n = magnitudes.size
    ranks = np.arange(1, n + 1)
    return 2 * (ranks * magnitudes).sum() / (n * magnitudes.sum()) - (n + 1) / n


def test_a_wide_terminal_shows_more(synthetic: Synthetic) -> None:
    wide = _shown(lambda console: tables.stats_table(synthetic.run), width=140)
    assert "not shown" not in wide
    assert " 0 ARM  24,576   5.40%  0.24%   0.260  0.276     6.73   6.34   0.443  0.423" in wide
    assert "1.87   1.36    1.75   1.75  -0.279  -0.279   0.0651" in wide
    assert "change" not in wide


def test_the_mean_movement_stands_beside_the_distance() -> None:
    run = silu_run().run
    values = {0: 0.026, 2: 0.5}
    run.manifest["mean_abs_change"] = [
        {**place(layer, "after")._asdict(), "value": value} for layer, value in values.items()
    ]
    wide = _shown(lambda console: tables.stats_table(run), width=160).splitlines()
    first, middle, last = (line.split()[-1] for line in wide if line[1:2].isdigit())
    assert middle == "–"
    assert float(first) == pytest.approx(values[0] / run.sketch(0).std(), rel=1e-3)
    assert float(last) == pytest.approx(values[2] / run.sketch(2).std(), rel=1e-3)
    assert "change mean / std" in _shown(lambda console: tables.stats_table(run))
    assert "; W1, change: before to after\n" in _shown(lambda console: tables.summary(run))


@pytest.mark.parametrize("width", [80, 110, 200])
def test_no_line_is_wider_than_the_terminal(synthetic: Synthetic, width: int) -> None:
    shown = _shown(lambda console: tables.summary(synthetic.run, console), width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown


def test_summary_holds_all_parts(synthetic: Synthetic) -> None:
    shown = _shown(lambda console: tables.summary(synthetic.run, console))
    assert shown.startswith(
        "\nThe output changes too much: loss 2.5000 → 2.6250 nats (+0.1250), KL 0.0125,\n"
        "top-1 agreement 93.8 %; the loss may rise by at most 0.1 nats.\n"
        "Settings that keep it are found by\n"
        "  distviz run --preset auto\n"
        "  distviz sweep\n"
        "\nsynthetic · silu · 3 layers · 256 tokens in 4 documents · bf16\n"
        "ARM in layer 0 · c = 0.13, p1 = 99.5 · moved 1,321 values (5.38 %)\n"
    )
    assert STATS.strip("\n") in shown
    assert shown.endswith(HISTOGRAM)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_without_unicode_everything_is_ascii(synthetic: Synthetic, encoding: str) -> None:
    shown = _shown(lambda console: tables.summary(synthetic.run, console), encoding=encoding)
    assert shown == IN_LATIN_1


def test_no_color_leaves_no_escape_sequences(
    synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(console: Console) -> Any:
        return tables.summary(synthetic.run, console)

    colored = _shown(build, color="standard")
    assert "\x1b[34m" in colored
    monkeypatch.setenv("NO_COLOR", "1")
    plain = _shown(build, color="standard")
    assert "\x1b[3" not in plain.replace("\x1b[1m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (None, ""),
        ({}, ""),
        (dict.fromkeys(("loss_before", "loss_after", "kl", "top1_agreement")), ""),
        ({"loss_before": 2.5, "loss_after": None, "kl": None}, "loss 2.5000 nats"),
    ],
)
def test_loss_line(effect: Any, expected: str) -> None:
    run = run_of({place(0, "before"): np.ones(3, np.float32)}, effect=effect)
    assert tables.loss_line(run) == expected


def test_without_arm() -> None:
    run = run_of({place(0, "before"): np.linspace(-1, 1, 9, dtype=np.float32)}, text={})
    assert (
        _shown(lambda console: tables.summary(run, console))
        == """
synthetic · silu · 3 layers · bf16

 layer  values  near-0    std  max/std   Gini  kurtosis   max    min
 ───────────────────────────────────────────────────────────────────
 0           9   11.1%  0.645     1.55  0.333     -1.23  1.00  -1.00

near-0: abs(x) < ε; max/std: largest abs(x) in std
"""
    )


def test_sites_and_modules_get_columns_where_they_differ() -> None:
    values = np.linspace(-1, 1, 9, dtype=np.float32)
    run = run_of(
        {
            place(0, "before"): values,
            place(0, "before", site="product", module="experts.0"): values,
            place(0, "before", site="product", module="experts.1"): values,
        }
    )
    shown = _shown(lambda console: tables.stats_table(run))
    lines = [line for line in shown.splitlines() if line.strip()]
    rows = [line.split()[:3] for line in lines[-4:-1]]
    assert [row[:2] for row in rows] == [["0", "act"], ["0", "product"], ["0", "product"]]
    assert [row[2] for row in rows[1:]] == ["0", "1"]  # what tells experts.0 from experts.1
    assert lines[-1].startswith("not shown: values")


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["mlp.experts.act_fn", "mlp.shared_expert.act_fn"], ["experts", "shared_expert"]),
        (["mlp.act", "mlps.0.act", "mlps.1.act"], ["mlp.act", "mlps.0", "mlps.1"]),
    ],
)
def test_modules_have_short_labels(paths: list[str], labels: list[str]) -> None:
    values = np.linspace(-1, 1, 9, dtype=np.float32)
    keys = [place(1, "before", module=f"model.layers.1.{path}") for path in paths]
    run = run_of(dict.fromkeys(keys, values))
    shown = _shown(lambda console: tables.stats_table(run))
    assert [line.split()[1] for line in shown.splitlines() if line.startswith(" 1 ")] == labels


@pytest.mark.parametrize(
    "values",
    [np.zeros(0), np.zeros(20), np.full(20, np.nan), np.array([np.inf, 1.0]), np.full(5, 3e38)],
)
def test_degenerate_data_print(values: Any) -> None:
    array = values.astype(np.float32)
    run: Run = run_of(
        {place(0, phase): array for phase in ("before", "after", "moved_before", "moved_after")}
    )
    assert "0 ARM" in _shown(lambda console: tables.summary(run, console))


def test_showing_imports_no_torch_and_no_matplotlib() -> None:
    code = (
        "import sys, json; import distviz.cli.views.run; "
        "print(json.dumps([name for name in ('torch', 'matplotlib', 'numba') "
        "if name in sys.modules]))"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert json.loads(done.stdout) == []


def shown(renderable: object, **options: object) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=False, **options)  # type: ignore[arg-type]
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_layer_details_leave_out_the_layer_of_the_summary() -> None:
    run = silu_run().run
    text = shown(layer_details(run, run.select([0, 2])))
    assert "layer 2 (last) · act" in text
    assert "layer 0 (first) · act" not in text  # the summary shows it
    assert "layer 1" not in text
    assert "█" in text
    assert "layer" not in shown(layer_details(run)).replace("by layer", "")


@pytest.mark.parametrize("values", [[], [np.nan], [0.0]])
def test_degenerate(values: list[float]) -> None:
    keys = [place(layer, "before") for layer in range(2)]
    run = run_of({key: np.array(values, dtype="float32") for key in keys}, dtype="float32")
    shown(layer_details(run, run))


def test_massive_activations_are_named_below_their_definition() -> None:
    text = " ".join(shown(tables.summary(planted(PLANTED))).split())
    assert "Massive activations (|x| > 100 and > 1,000 times the median |x|)" in text
    assert "act: channel 7 in layers 1, 2, up to 25,000" in text
    assert "Massive" not in shown(tables.summary(planted(PLANTED, ratio=1.0)))
