"""Let docstrings name objects as their readers do: ``Run.select`` for ``distviz.Run.select``."""

from __future__ import annotations

from typing import Any

from docutils import nodes


def _resolve(app: Any, env: Any, node: nodes.Element, content: nodes.Element) -> Any:
    """Look a Python name up again, by its end; it is still missing unless that is unique."""
    if node.get("refdomain") != "py":
        return None
    node["refspecific"] = True
    place = node["refdoc"], app.builder, node["reftype"], node["reftarget"]
    return env.domains.python_domain.resolve_xref(env, *place, node, content)


def setup(app: Any) -> dict[str, Any]:
    """Ask where Sphinx itself has not found anything."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
