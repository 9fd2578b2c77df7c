"""A filler study of the demo: changes against the documents of its runs, and long prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distviz.errors import RequestError
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.results.filler_study import FillerStudy
from distviz.settings import RunSettings
from distviz.studies.filler import filled_corpus, finished_study, read_prompts, study_filler

SETTINGS = RunSettings(
    max_documents=9, layers="0,1", sites="act", attention_layers="none", max_length=96
)


@pytest.fixture(scope="module")
def opened(demo_folder: Any) -> Any:
    return open_model(str(demo_folder), device="cpu")


@pytest.fixture(scope="module")
def found(opened: Any) -> FillerStudy:
    return study_filler(opened, read_prompts(SETTINGS), SETTINGS, [6, 0, 2], Progress())


def test_changes_are_those_of_the_documents(found: FillerStudy) -> None:
    assert sorted(found.runs) == [0, 2, 6]
    assert found.manifest["counts"] == [0, 2, 6]
    tables = {
        count: run.documents.set_index(["layer", "document"]) for count, run in found.runs.items()
    }
    for row in found.table.itertuples():
        x, y = (tables[count].loc[row.layer].sort_index() for count in (0, row.filler_count))
        expected = {
            "near_zero_difference": y["near_zero"] - x["near_zero"],
            "log_variance_ratio": 2 * np.log(y["std"] / x["std"]),
            "log_l1_ratio": np.log(y["l1"] / x["l1"]),
            "log_l2_ratio": np.log(y["l2"] / x["l2"]),
            "gini_difference": y["gini"] - x["gini"],
        }[row.quantity]
        assert row.estimate == pytest.approx(expected.mean(), rel=1e-9, abs=1e-12)
    assert len(found.table) == 2 * 2 * 5


def test_a_finished_study_is_found_again(found: FillerStudy, tmp_path: Any) -> None:
    folder = found.save(tmp_path / "study")
    again = finished_study(folder, SETTINGS, [2, 6])
    assert again is not None
    assert again.table.equals(FillerStudy.load(folder).table)
    assert finished_study(folder, SETTINGS, [2]) is None
    manifest = folder / "count_000" / "run.json"
    known = found.runs[0].manifest["text"]["sha256"]
    manifest.write_text(manifest.read_text().replace(known, "0" * 64))
    with pytest.raises(RequestError, match="measured on other input: text differs"):
        finished_study(folder, SETTINGS, [2, 6])


def test_a_prompt_longer_than_a_window_is_refused(opened: Any) -> None:
    prompts = read_prompts(SETTINGS)[:3]
    assert len(prompts) == 3
    assert len(filled_corpus(opened, prompts, SETTINGS, 4).windows) == 3
    with pytest.raises(
        RequestError, match="with 200 filler tokens is longer than --max-length 96"
    ) as one:
        filled_corpus(opened, prompts, SETTINGS, 200)
    assert "smaller --counts" in one.value.hint  # a larger window may not fit into the positions
