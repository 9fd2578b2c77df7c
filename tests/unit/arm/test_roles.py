"""Settings without effect beside others; `tests/unit/settings` has them as they are given."""

from __future__ import annotations

import pytest

from distviz.arm.roles import refuse_idle, why_no_effect
from distviz.errors import RequestError
from distviz.settings import OPTIONS, LayerSettings, RunSettings


def test_every_setting_has_an_effect_by_default() -> None:
    idle = {name for name, one in OPTIONS.items() if why_no_effect(one, RunSettings())}
    assert idle == {"filler", "filler_count", "filler_position", "filler_kind", "rotate"}
    given = RunSettings(filler="/", formats=["nvfp4"])
    assert not any(why_no_effect(one, given) for one in OPTIONS.values())
    given = RunSettings(formats=["nvfp4"])
    assert not any(why_no_effect(one, given, "filler") for one in OPTIONS.values())


def test_layers_without_arm_and_figures_need_few_settings() -> None:
    bare = RunSettings(layer=LayerSettings(), arm_layers="none", figures=[])
    asked = {name for name, one in OPTIONS.items() if not why_no_effect(one, bare)}
    assert {"c", "arm_layers", "layers", "sites", "seed", "batch_size", "figures", "out"} <= asked
    gone = {"text", "max_tokens", "filler", "x_axis", "stream_memory"}
    assert not asked & gone


def test_an_effect_in_one_row_is_enough() -> None:
    rows = [RunSettings(stream=False), RunSettings(stream=True)]
    refuse_idle(rows, OPTIONS, ["stream_memory"])
    with pytest.raises(RequestError, match="--stream-memory has no effect with --no-stream"):
        refuse_idle(rows[:1], OPTIONS, ["stream_memory"])
