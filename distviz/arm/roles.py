"""Which settings have an effect beside the others; what has none is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distviz.option import HEADINGS, Option, no_effect
from distviz.output import counted

_FILLER = HEADINGS[2]


def refuse_idle(
    settings: Sequence[Any],
    options: Mapping[str, Option],
    names: Iterable[str] | None = None,
    command: str = "run",
) -> None:
    """Refuse a setting that is given and has no effect.

    Parameters
    ----------
    settings
        One `RunSettings`, or those of all rows of a sweep: an effect in one of them is enough.
    options
        The records of its fields.
    names
        Settings that are given; None for those that the first of ``settings`` holds.
    command
        For which they are.

    Raises
    ------
    RequestError
        That names the flag, or the key and its file.
    """
    first = settings[0]
    files = dict(first.files)
    for name in _given(first, options) if names is None else names:
        reasons = [why_no_effect(options[name], one, command) for one in settings]
        if all(reasons):
            key = f"'{name}' in {files.get(name)}"
            label = key if name in files else options[name].label_of(first)
            hint = ", or give a model" * (first.layer is not None)
            raise no_effect(label, reasons[0], hint)


def _given(settings: Any, options: Mapping[str, Option]) -> Iterator[str]:
    """Yield what was typed, and what a file or a constructor gives that is not the default."""
    typed = settings.explicit - dict(settings.files).keys()
    for name, option in options.items():
        value = getattr(settings, name)
        if name == "text":
            value = [*value, *settings.texts]
        is_own = name in settings.explicit or not settings.explicit  # and not of a preset
        if (value != option.default and is_own) or (
            name in typed and not (value is None or value is False or isinstance(value, list))
        ):
            yield name


def why_no_effect(option: Option, settings: Any, command: str = "run") -> str:
    """Return why a setting has no effect, as words after "has no effect"; empty where it has."""
    name = option.name
    if settings.layer is not None and (why := _beside_layers(option, settings)):
        return why
    if option.heading == _FILLER and settings.filler is None and command != "filler":
        return "without --filler"
    if name == "stream_memory" and settings.stream is False:
        return "with --no-stream"
    if name == "rotate" and not settings.formats:
        return "without --formats"
    if name == "device" and settings.device_map is not None:
        return "with --device-map"
    if option.affects == "figures" and not settings.figures:
        return "without figures" * (name != "figures")
    return ""


def _beside_layers(option: Option, settings: Any) -> str:
    layer, name = settings.layer, option.name
    is_of_text = option.affects in ("text", "tokens") and name not in ("batch_size", "seed")
    if is_of_text or name == "text":
        amount = counted(layer.documents, "document")
        return f"on layers built from a TOML file: their input is random ({amount}, see [layer])"
    if name == "stream_memory" or (name == "stream" and settings.stream):
        return "on layers built from a TOML file"
    is_random = name == "revision" and layer.weights is None
    return "on layers with random weights" if is_random else ""
