"""Examine types one by one; what comes out is the table that the package carries."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.models.auto import modeling_auto

from distviz.errors import RequestError
from distviz.models.architectures.mlp import Mlp, find_mlps
from distviz.models.loading import quiet
from distviz.sites import SITES
from support.architectures import tiny
from support.architectures.capture import CLASSES, Capture
from support.architectures.examination import Examination
from support.architectures.inputs import call, inputs_of

LARGEST = 50_000_000
"""Parameters: what stays larger was not made small by the rules, and is not built."""


PACKAGES = ("timm",)
"""Packages beside transformers whose models types are built on; what they give is recorded."""
_NO_FORWARD = "transformers gives it no forward pass of its own: only its parts are called"
_SESSION = "is called with a session of a video, not with tensors"
_CODEBOOK = (
    "its configuration needs the size of an audio codebook that the small sizes here do not fit"
)
_SHARED = (
    "transformers 5.23 cannot build it: its configuration demands that all layers share a cache, "
    "and a check of its layers forbids it"
)
REASONS = {
    "apertus1p5": _CODEBOOK,
    "dory": "its numbers of layers must add up, which the small sizes here do not",
    "wavtokenizer": _CODEBOOK,
    "wavtokenizer_encoder": _CODEBOOK,
    "align": "its image tower gives infinite values where its weights are random",
    "bark": _NO_FORWARD,
    "edgetam_video": _SESSION,
    "evolla": "AutoModel of transformers 5.23 does not take its configuration",
    "gemma4_assistant": _SHARED,
    "gemma4_unified_assistant": _SHARED,
    "glm_image_vqmodel": _NO_FORWARD,
    "omdet-turbo": "takes the classes and tasks to detect in a structure of its own",
    "pi0": "is called with the cache of a language model that has read pictures",
    "layoutlmv2": "needs detectron2, which is no package of the index",
    "pp_ocrv6_medium_det": "the blocks of its default configuration are unset",
    "pp_ocrv6_small_det": "its backbone does not fit it once its sizes are small",
    "sam2_video": _SESSION,
    "sam3_tracker_video": _SESSION,
    "sam3_video": _SESSION,
    "tvp": "transformers 5.23 takes one video at a time, the examination gives two",
    "uvdoc": "its backbone does not fit it in the default configuration of transformers 5.23",
    "voxtral_realtime_text": "transformers 5.23 names a class for it that does not exist",
}
"""Why a type cannot be examined, where what is raised does not say it plainly."""


@dataclass
class Examined:
    """One row of the table, and everything that was wrong."""

    row: dict[str, Any]
    wrong: list[str] = field(default_factory=list)


def types() -> list[str]:
    """Every causal type, then every other that AutoModel opens."""
    others = [kind for kind in modeling_auto.MODEL_MAPPING_NAMES if kind not in tiny.CAUSAL]
    return [*tiny.CAUSAL, *others]


def examine(kind: str) -> Examined:
    """Build, find, observe, change; a type that cannot be built or called says why."""
    given = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    given = given or modeling_auto.MODEL_MAPPING_NAMES[kind]
    name = given if isinstance(given, str) else given[0]
    row: dict[str, Any] = {"type": kind, "class_name": name, "causal": kind in tiny.CAUSAL}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = tiny.build(kind, largest=LARGEST)
            inputs = inputs_of(model)
        except Exception as error:  # noqa: BLE001  (whatever transformers raises is the reason)
            reason = REASONS.get(kind) or _reason(error)
            return Examined(row | {"status": "untested", "reason": reason})
        if needs := _needs(model):
            row["needs"] = needs
        try:
            mlps = find_mlps(model)
        except RequestError:
            with Capture(model) as capture:
                call(model, inputs)
            return Examined(row | {"status": "no MLP", "elsewhere": capture.elsewhere(set())})
        examination = Examination(model, mlps, inputs, is_causal=row["causal"])
        examination.run()
    row |= {"status": "supported"} | _describe(model, mlps) | examination.notes
    return Examined(row, examination.wrong)


def _reason(error: Exception) -> str:
    if found := re.search(r"requires the (\w+) library", str(error)):
        return f"needs {found[1]}, which was not installed where it was examined"
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    short = lines[0] if lines else ""
    if short.endswith(":") and len(lines) > 1:
        short = f"{short} {lines[1]}"
    # Where a package is installed is nobody's business.
    short = re.sub(r"<module '([^']+)' from '[^']*'>?", r"\1", short)
    return f"{type(error).__name__}: {short}"[:200]


def _needs(model: nn.Module) -> str:
    """Return the package beside transformers that part of a model comes from."""
    homes = {type(module).__module__.partition(".")[0] for module in model.modules()}
    return next((name for name in PACKAGES if name in homes), "")


def _describe(model: nn.Module, mlps: list[Mlp]) -> dict[str, Any]:
    """Return the columns that say where the activations are."""
    acts = [next(point for point in mlp.points if point.site == "act") for mlp in mlps]
    offered = {point.site for mlp in mlps for point in mlp.points}
    return {
        "found": list(dict.fromkeys(_way(model, mlp) for mlp in mlps)),
        "where": list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".N", act.module) for act in acts)),
        "activation": list(dict.fromkeys(mlp.activation for mlp in mlps)),
        "gated": any(mlp.gated for mlp in mlps),
        "routed": any(mlp.routed for mlp in mlps),
        "stacks": list(dict.fromkeys(mlp.stack for mlp in mlps)),
        "sites": [site for site in SITES if site in offered],
    }


def _way(model: nn.Module, mlp: Mlp) -> str:
    """How the activation was found: class, name, function, or gate of fused experts."""
    act = next(point for point in mlp.points if point.site == "act")
    product = next((point for point in mlp.points if point.site == "product"), None)
    if act.chain:
        return "gate" if product is not None and product.chain else "function"
    modules = dict(model.named_modules(remove_duplicate=False))
    pattern = re.compile(re.escape(act.module).replace(r"\*", r"[^.]+"))
    module = next(module for path, module in modules.items() if pattern.fullmatch(path))
    return "class" if isinstance(module, CLASSES) else "name"
