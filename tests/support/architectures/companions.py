"""What goes with tokens, pixels and sound: masks, boxes, grids; and calls that need all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from support.architectures.sizes import BATCH, LENGTH, field, randn


def companions(model: Any, known: set[str], given: dict[str, Any], axis: int = 1) -> dict[str, Any]:
    """Return what the signature names beside `given`, in the shapes that fit it.

    `axis` is that of the frames of sound.
    """
    made: dict[str, Any] = {}
    main = next((v for k, v in given.items() if _is_main(k)), None)
    for name in known - given.keys():
        value = _companion(model.config, name, main, given, axis)
        if value is not None:
            made[name] = value
    return made


def _is_main(name: str) -> bool:
    return name.startswith(("pixel", "input_features", "input_values", "audio_mel", "past_values"))


def _companion(config: Any, name: str, main: Any, given: dict[str, Any], axis: int) -> Any:
    ones = torch.ones(BATCH, LENGTH, dtype=torch.long)
    if name == "audio_mel_mask" and main is not None:  # true where there is padding
        return torch.zeros(main.shape[:2], dtype=torch.bool)
    if name in ("input_features_mask", "padding_mask", "attention_mask"):
        return _sound_mask(name, main, given, axis)
    if name == "bbox":
        return _boxes(config)
    if name == "pixel_mask" and main is not None and main.dim() >= 4:
        return torch.ones(BATCH, *main.shape[-2:], dtype=torch.long)
    if name in ("qformer_input_ids", "classes_input_ids", "tasks_input_ids", "task_inputs"):
        return ones + torch.arange(LENGTH)
    if name == "image_attention_mask" and main is not None and main.dim() == 5:
        return torch.ones(BATCH, LENGTH, main.shape[1], dtype=torch.long)
    if name.endswith("input_ids") or name == "decoder_input_ids":
        return ones
    return None


def _sound_mask(name: str, main: Any, given: dict[str, Any], axis: int) -> Any:
    if name == "attention_mask" and "input_ids" in given:
        return torch.ones(given["input_ids"].shape[:2], dtype=torch.long)
    if main is None or main.dim() not in (2, 3):
        return None
    length = main.shape[min(axis, main.dim() - 1)]
    return torch.ones(BATCH, length, dtype=torch.bool)


def _boxes(config: Any) -> torch.Tensor:
    corner = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH, 1) * 3
    boxes = torch.cat([corner, corner + 1, corner + 9, corner + 6], -1)
    is_share = field(config, "dim_bbox") is not None or config.model_type == "udop"
    return boxes / 100 if is_share else boxes


def special(model: Any, text: dict[str, Any]) -> dict[str, Any] | None:
    """Return the inputs of a type that no rule gives; None for all others."""
    config = model.config
    make = _SPECIAL.get(config.model_type)
    return None if make is None else make(config, text)


def _lxmert(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    seen = {"visual_feats": randn(BATCH, 5, config.visual_feat_dim)}
    return text | seen | {"visual_pos": randn(BATCH, 5, config.visual_pos_dim)}


def _bros(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    return text | {"bbox": _boxes(config)}


def _qformer(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    seen = randn(BATCH, 5, config.encoder_hidden_size)
    return {"query_embeds": randn(BATCH, 8, config.hidden_size), "encoder_hidden_states": seen}


def _books(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    """Tokens with one column a codebook."""
    books = config.num_codebooks + (config.model_type == "kyutai_speech_to_text")
    return text | {"input_ids": text["input_ids"][..., None].repeat(1, 1, books)}


def _dia(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    books = config.decoder_config.num_channels
    return text | {"decoder_input_ids": text["decoder_input_ids"][..., None].repeat(1, 1, books)}


def _speecht5(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_values": randn(BATCH, 9, config.hidden_size),
        "decoder_input_values": randn(BATCH, LENGTH, config.hidden_size),
        "use_cache": False,
    }


def _kosmos(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    ids = torch.cat([text["input_ids"]] * (config.latent_query_num // LENGTH + 1), 1)
    mask = torch.arange(ids.shape[1]).repeat(BATCH, 1) < config.latent_query_num
    side = config.vision_config.image_size
    pixels = randn(BATCH, 3, side, side)
    return {"input_ids": ids, "pixel_values": pixels, "image_embeds_position_mask": mask}


def _queries(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    """Tokens that begin with places for pictures, and what is asked about them."""
    side = config.vision_config.image_size
    ids = text["input_ids"].clone()
    is_video = config.model_type == "instructblipvideo"
    ids[:, :4] = 120
    frames = (4,) if is_video else ()
    given = text | {"input_ids": ids, "pixel_values": randn(BATCH, *frames, 3, side, side)}
    return given if config.model_type == "blip-2" else given | {"qformer_input_ids": ids % 90}


def _dflash(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    """What a draft is given by the model that it drafts for."""
    wide = config.hidden_size * len(config.target_layer_ids)
    noise = randn(BATCH, config.block_size, config.hidden_size)
    mask = torch.ones(BATCH, 9 + config.block_size, dtype=torch.long)
    context = randn(BATCH, 9, wide)
    return {"noise_embeds": noise, "context_hidden_states": context, "attention_mask": mask}


def _series(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    """Values of the past and the future, with one feature of time."""
    past, ahead = config.context_length + max(config.lags_sequence), config.prediction_length
    width = config.num_time_features
    return {
        "past_values": randn(BATCH, past), "past_observed_mask": torch.ones(BATCH, past),
        "past_time_features": randn(BATCH, past, width), "future_values": randn(BATCH, ahead),
        "future_time_features": randn(BATCH, ahead, width), "use_cache": False,
    }  # fmt: skip


def _decisions(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    return {
        "states": randn(BATCH, LENGTH, config.state_dim),
        "actions": randn(BATCH, LENGTH, config.act_dim),
        "rewards": randn(BATCH, LENGTH, 1),
        "returns_to_go": randn(BATCH, LENGTH, 1),
        "timesteps": torch.arange(LENGTH).repeat(BATCH, 1),
        "attention_mask": torch.ones(BATCH, LENGTH),
    }


def _task(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    return {
        "pixel_values": randn(BATCH, 3, 64, 64),
        "task_inputs": randn(BATCH, config.task_seq_len),
    }


def _prompted(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    """A picture, and one that shows what is asked of it."""
    height, width = config.image_size
    shape = (BATCH, 3, height // 2, width)
    names = ("pixel_values", "prompt_pixel_values", "prompt_masks")
    return {name: randn(*shape) for name in names}


def _both(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    """Samples, and the bands of as many frames."""
    return {
        "input_values": randn(BATCH, 1, config.hop_length * 8),
        "input_features": randn(BATCH, 8, 160),
    }


def _seen_and_heard(_config: Any, text: dict[str, Any]) -> dict[str, Any]:
    """A video and its sound."""
    video = randn(BATCH, 8, 3, 32, 32)
    return text | {"input_values": randn(BATCH, 1, 4000), "pixel_values_videos": video}


def _voxtral(config: Any, text: dict[str, Any]) -> dict[str, Any]:
    """Tokens, and the bands of eight frames for each."""
    bands = config.audio_config.num_mel_bins
    return text | {"input_features": randn(BATCH, bands, 8 * LENGTH)}


def _forecast(config: Any, _text: dict[str, Any]) -> dict[str, Any]:
    length = config.context_length
    given = {
        "past_values": randn(BATCH, length),
        "past_values_padding": torch.zeros(BATCH, length, dtype=torch.long),
    }
    freq = {"freq": torch.zeros(BATCH, 1, dtype=torch.long)}
    return given | (freq if config.model_type == "timesfm" else {})


_SPECIAL: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "blip-2": _queries,
    "blip_2_qformer": _qformer,
    "autoformer": _series,
    "bros": _bros,
    "decision_transformer": _decisions,
    "dia": _dia,
    "informer": _series,
    "instructblip": _queries,
    "instructblipvideo": _queries,
    "kosmos-2": _kosmos,
    "kyutai_speech_to_text": _books,
    "lxmert": _lxmert,
    "muse_glimmer_assistant": _dflash,
    "neucodec": _both,
    "oneformer": _task,
    "pe_audio_video": _seen_and_heard,
    "pe_audio_video_encoder": _seen_and_heard,
    "seggpt": _prompted,
    "speecht5": _speecht5,
    "time_series_transformer": _series,
    "timesfm": _forecast,
    "timesfm2_5": _forecast,
    "voxtral_realtime": _voxtral,
    "xcodec2": _both,
}
