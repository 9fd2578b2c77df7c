"""What the arguments of a measuring command ask for, typed in a shell or given in Python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from distviz.cli import commands, options

if TYPE_CHECKING:
    from distviz.settings import RunSettings


def study_of(
    command: str,
    given: SimpleNamespace,
    settings: RunSettings | None = None,
    kept: frozenset[str] | None = None,
) -> commands.Study:
    """Return the checked request of a measuring command.

    Parameters
    ----------
    given
        Its arguments by name, None where not given.
    settings
        Take the place of all single settings of ``run`` and ``compare``.
    kept
        Names of ``settings`` that those of a run do not replace.

    Raises
    ------
    RequestError
        If it cannot be carried out, as far as this is known without reading weights.
    """
    flags, config = options.flags_of(command, given), given.config
    if command == "run":
        return commands.run_study(given.model, flags, config, settings)
    if command == "compare":
        own = options.of_side_b(given)
        by_value = {"elementwise": given.elementwise, "local": given.local}
        sides = (given.a, given.b, given.phase_a, given.phase_b)
        return commands.compare_study(*sides, own, by_value, flags, config, settings, kept)
    if command == "filler":
        return commands.filler_study(given.model, given.counts, flags, config)
    lists = {name: getattr(given, name) for name in commands.GRID}
    asked = (lists, given.seeds, given.budget_kl, given.by_layer, flags, config)
    if given.allocate is None:
        return commands.sweep_study(given.model, *asked)
    from distviz.cli.allocation import allocation_study

    return allocation_study(given.model, given.allocate, *asked)
