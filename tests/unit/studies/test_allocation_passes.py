"""Settings of the passes of an allocation: one place alone, and the whole."""

from __future__ import annotations

from typing import Any

from distviz.settings import RunSettings
from distviz.sites import HookPoint
from distviz.studies.allocation import Level, Place, parse_allocation
from distviz.studies.allocation_passes import AllocationPasses


def test_the_whole_has_a_table_of_all_places() -> None:
    settings: Any = RunSettings(at="act,product")
    points = {(layer, site): [] for layer in (1, 3) for site in ("act", "product")}
    rest: Any = (parse_allocation("50%"), points, [], None, None)
    study = AllocationPasses(None, None, settings, *rest)  # type: ignore[arg-type]
    places = [Place(layer, site, 8) for layer, site in points]
    levels = tuple(Level(0.25 * n, 0.1, 1) for n in range(4))
    own, even = study.whole(places, (levels, levels[::-1]))
    assert (own.layers, own.label, own.settings.at) == ((1, 3), "1,3", "act,product")
    assert (own.table.path, even.table.path) == ("allocation.csv", "uniform.csv")
    arm = own.redistribution(own.settings)
    assert arm.at(HookPoint(3, "decoder", "product", "m", "input")).largest == 0.75
    assert even.table.of(HookPoint(1, "decoder", "act", "m", "output")) == 0.75
    assert arm.described() == "|x| up to the thresholds of allocation.csv"
