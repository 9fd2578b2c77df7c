"""Settings put together from flags, TOML files, presets and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distviz.option import check_table, code_in, read_options, refuse_code
from distviz.settings.run import OPTIONS, RunSettings


def build_settings(
    flags: dict[str, Any],
    config: Path | None = None,
    model: str | None = None,
    *,
    command: str = "run",
) -> RunSettings:
    """Join flags, TOML files and defaults, in this order of precedence.

    Parameters
    ----------
    flags
        Flags; None means not given. Documents given in Python are ``texts``, beside an empty
        ``text``.
    config
        File of ``--config``.
    model
        MODEL; a ``.toml`` counts as a second, weaker ``--config`` that may describe layers.
    command
        For which it is; a sweep tries many presets, so that its settings are not those of one.

    Raises
    ------
    RequestError
        If a key is unknown (the nearest valid one is named), mistyped, or out of range.
    """
    from distviz.arm import find_preset

    is_toml = model is not None and model.endswith(".toml")
    merged: dict[str, Any] = {}
    files: dict[str, str] = {}
    given = {name: value for name, value in flags.items() if value is not None}
    for path in (Path(str(model)) if is_toml else None, config):
        if path is not None:
            own = check_table(read_options(path, OPTIONS), RunSettings, str(path))
            refuse_code({n: v for n, v in own.items() if n not in given}, OPTIONS, str(path))
            merged |= {n: OPTIONS[n].parse(v) if n in OPTIONS else v for n, v in own.items()}
            files |= dict.fromkeys(own.keys() - given.keys(), str(path))
    if model is not None and not is_toml:
        given["model"] = model
        merged.pop("layer", None)
    explicit = frozenset(merged | given) - {"texts"}
    name = given.get("preset", merged.get("preset"))
    if name is not None and command != "sweep":
        # A preset stands between defaults and explicit settings.
        preset = find_preset(name, given.get("model", merged.get("model"))) or {}
        if "c" in explicit and "fraction" not in explicit:
            preset.pop("fraction", None)  # an explicit c would have no effect
        merged = preset | merged
    trusted = frozenset(code_in(given, OPTIONS).items())
    origin: dict[str, Any] = {"explicit": explicit, "files": frozenset(files.items())}
    settings = RunSettings(**(merged | given), **origin, trusted=trusted)
    refuse_without_effect(settings, command=command)
    return settings


def refuse_without_effect(
    *settings: RunSettings, names: Iterable[str] | None = None, command: str = "run"
) -> None:
    """Refuse what is given and has no effect in any of ``settings``, see `refuse_idle`."""
    from distviz.arm import refuse_idle

    refuse_idle(settings, OPTIONS, names, command)


def settings_of_folder(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check settings that a result folder records, by name; raise a RequestError for code."""
    checked = check_table(dict(values), RunSettings, where)
    refuse_code(checked, OPTIONS, where)
    return checked
