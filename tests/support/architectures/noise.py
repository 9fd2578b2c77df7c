"""Pixels and sound of the shapes that the configuration tells, and of the usual ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from support.architectures.sizes import BATCH, field, fields, randn

_GRID = (1, 4, 4)
_PATCHES = BATCH * 16
_LARGEST_SIDE = 256


def noise(model: Any, known: set[str]) -> Iterator[dict[str, Any]]:
    """Yield what may be put in beside tokens: one kind of thing at a time."""
    config = model.config
    if known & {"grid_thw", "image_grid_thw"} and not known & {"input_ids"}:
        yield from _packed(config)
    yield from _images(config)
    yield from _sound(config)
    yield from _series(config, known)


def _packed(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the patches of all images in one row, and the grid of each image."""
    patch = field(config, "patch_size", default=8)
    channels = field(config, "in_channels", "num_channels", "in_chans", default=3)
    steps = field(config, "temporal_patch_size", default=1)
    grid = torch.tensor([_GRID] * BATCH)
    flat = tuple(n * channels * patch * patch for n in (steps, 1, 2))
    shapes: list[tuple[int, ...]] = [(_PATCHES, size) for size in dict.fromkeys(flat)]
    shapes += [(_PATCHES, channels, patch, patch), (_PATCHES, channels, steps, patch, patch)]
    block = patch * field(config, "spatial_merge_size", "merge_size", default=2)
    shapes += [(_PATCHES, block, block, channels)]
    for shape in shapes:
        for name in ("hidden_states", "pixel_values"):
            for grid_name in ("grid_thw", "image_grid_thw"):
                yield {name: randn(*shape), grid_name: grid}
            merge = {"merge_sizes": torch.ones(BATCH, dtype=torch.long)}
            yield {name: randn(*shape), "grid_thw": grid, **merge}


def _patches(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the patches of each image in a row of the batch, and where they stand in it."""
    patch = field(config, "patch_size", default=8)
    if not isinstance(patch, int):
        return
    place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1)
    pixels = randn(BATCH, 16, 3 * patch * patch)
    mask, shapes = torch.ones(BATCH, 16, dtype=torch.long), torch.tensor([[4, 4]] * BATCH)
    yield {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}
    yield {
        "pixel_values": pixels,
        "pixel_position_ids": place.reshape(1, 16, 2).repeat(BATCH, 1, 1),
    }
    strip = randn(1, 3, patch, patch * 16 * BATCH)
    yield {"pixel_values": strip, "target_sizes": shapes}


def _sides(config: Any) -> list[tuple[int, int]]:
    """Return the sizes of images to try: what the configuration says, then more."""
    said = fields(config, "image_size")
    sides: list[Any] = [*said, 32, 64, 128]
    pairs = [(s, s) if isinstance(s, int) else s for s in sides]
    small = [tuple(s) for s in pairs if isinstance(s, list | tuple) and max(s) <= _LARGEST_SIDE]
    return list(dict.fromkeys(small))


def _images(config: Any) -> Iterator[dict[str, Any]]:
    yield from _patches(config)
    channels = field(config, "num_channels", "in_channels", "in_chans", default=3)
    if not isinstance(channels, int):
        channels = 3
    frames = field(config, "num_frames", default=8)
    frames = frames if isinstance(frames, int) else 8
    for height, width in _sides(config):
        yield {"pixel_values": randn(BATCH, channels, height, width)}
        yield {"pixel_values": randn(BATCH, frames, channels, height, width)}
        yield {"pixel_values_videos": randn(BATCH, frames, channels, height, width)}
        yield {"pixel_values": randn(BATCH, 2, channels, height, width)}
        yield {"pixel_values": randn(BATCH, 1, channels, height, width)}


def _sound(config: Any) -> Iterator[dict[str, Any]]:
    """Yield samples, mono and with an axis for channels, then mel bands, both ways round."""
    for length in (4000, 3840):
        yield {"input_values": randn(BATCH, length)}
        yield {"input_values": randn(BATCH, 1, length)}
    said = fields(
        config, "num_mel_bins", "input_feat_per_channel", "feature_size", "input_feat_size",
        "mel_bins", "input_size", "feature_projection_input_dim", "input_dim", "input_channels",
    )  # fmt: skip
    stacked = [4 * b for b in fields(config, "num_mel_bins") if isinstance(b, int)]
    bands = list(dict.fromkeys(b for b in (*said, 80, 128, 160, *stacked) if isinstance(b, int)))
    for width in bands:
        for length in (64, 128, 32, 100):
            for shape in ((BATCH, width, length), (BATCH, length, width)):
                for name in ("input_features", "input_values", "audio_mel"):
                    yield {name: randn(*shape)}
    for width in bands:
        yield {"input_features": randn(BATCH, 1, 64, width)}


def _series(config: Any, known: set[str]) -> Iterator[dict[str, Any]]:
    """Yield time series, latents and hidden states."""
    length = field(config, "context_length", default=32)
    inputs = field(config, "num_input_channels", default=1)
    yield {"past_values": randn(BATCH, length, inputs)}
    yield {"past_values": randn(BATCH, length)}
    for width in fields(config, "hidden_size", "latent_size", "latent_dim", "d_model"):
        if isinstance(width, int):
            yield {"query_embeds": randn(BATCH, 8, width)}
            yield {"latents": randn(BATCH, width, 8)}
            yield {"latents": randn(BATCH, 8, width)}
            yield {"hidden_states": randn(BATCH, width, 8)}
            yield {"hidden_states": randn(BATCH, 8, width)}
            yield {"inputs": randn(BATCH, 8, width)}
            if "input_ids" not in known:
                yield {"inputs_embeds": randn(BATCH, 8, width)}
    yield {"hidden_states": randn(BATCH, 1, 6400)}
