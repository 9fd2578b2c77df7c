"""A saved run and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.synthetic_runs import Synthetic, silu_run, with_tables

from distviz.reports import page_of
from distviz.reports.rendering import render


@pytest.fixture(scope="package")
def synthetic() -> Synthetic:
    return silu_run()


@pytest.fixture(scope="package")
def run_folder(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tables(synthetic.run).save(tmp_path_factory.mktemp("reports") / "run")


@pytest.fixture(scope="package")
def html(run_folder: Path) -> str:
    return render(page_of([run_folder]))
