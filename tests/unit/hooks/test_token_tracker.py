"""Rows that are not the tokens of one decoder: encoder-decoders, images, towers, streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.architectures import tiny
from support.brute_force import hook_count
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import distviz
from distviz.arm.arm import ARM
from distviz.errors import MeasurementError, RequestError
from distviz.hooks.moe_layouts import Routed
from distviz.hooks.tokens import Tokens
from distviz.models.architectures.mlp import find_mlps

TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 64,
    "decoder_start_token_id": 0,
}  # fmt: skip
IMAGE = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 8, "vision_use_head": False,
}  # fmt: skip


def t5() -> Any:
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **T5)).eval()


def gemma3() -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3", text_config=TEXT, vision_config=IMAGE, mm_tokens_per_image=4, image_token_index=60
    )
    return AutoModelForCausalLM.from_config(config).eval()


def counts(watched: Any) -> dict[tuple[str, int], int]:
    stats = watched.stats()
    return {(row["stack"], row["layer"]): row["count"] for row in stats.to_dict("records")}


def test_encoder_and_decoder_have_their_own_tokens_and_padding() -> None:
    model = t5()
    ids, decoder_ids = torch.arange(3, 17).reshape(2, 7), torch.arange(3, 13).reshape(2, 5)
    mask, decoder_mask = torch.ones(2, 7), torch.ones(2, 5)
    mask[1, 3:] = 0
    decoder_mask[0, 4:] = 0
    with torch.no_grad(), distviz.watch(model) as watched:
        model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids,
            decoder_attention_mask=decoder_mask,
        )  # fmt: skip
    assert counts(watched) == {
        ("decoder", 0): 9 * 48, ("decoder", 1): 9 * 48,
        ("encoder", 0): 10 * 48, ("encoder", 1): 10 * 48,
    }  # fmt: skip
    documents = watched.run().documents
    assert set(documents["document"]) == {0, 1}


def test_generate_of_an_encoder_decoder_calls_its_encoder_first() -> None:
    model = t5()
    ids = torch.arange(3, 17).reshape(2, 7)
    before = hook_count(model)
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with torch.no_grad(), distviz.watch(model) as watched:
        model.generate(ids, **options)
        model.generate(ids, **options)
    found = counts(watched)
    assert found["encoder", 1] == 2 * 14 * 48
    assert found["decoder", 1] == 2 * 2 * 4 * 48
    assert hook_count(model) == before
    # Both stacks of one generation are the same documents.
    documents = watched.run().documents
    for stack in ("encoder", "decoder"):
        assert set(documents[documents["stack"] == stack]["document"]) == {0, 1, 2, 3}


def test_decode_steps_of_an_encoder_decoder_are_those_of_its_decoder() -> None:
    model = t5()
    ids = torch.arange(3, 17).reshape(2, 7)
    phases = []
    for on in ("prefill", "decode"):
        work = distviz.redistribute(model, ARM(fraction=0.9), {"decoder": "all"}, on=on)
        with torch.no_grad(), work as active:
            active.report = lambda _p, old, *_, on=on: phases.append((on, len(old)))
            model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert phases == [("prefill", 2)] * 2 + [("decode", 2)] * 3 * 2


def test_patches_of_an_image_are_positions() -> None:
    torch.manual_seed(0)
    sizes = {k: v for k, v in IMAGE.items() if k != "vision_use_head"}
    model = AutoModel.from_config(AutoConfig.for_model("vit", **sizes)).eval()
    with torch.no_grad(), distviz.watch(model) as watched:
        model(pixel_values=torch.randn(3, 3, 16, 16))
    assert counts(watched) == {("encoder", layer): 3 * 5 * 40 for layer in (0, 1)}
    assert watched.run().documents["count"].tolist() == [5 * 40] * 6


def test_towers_are_skipped_unless_named() -> None:
    model = gemma3()
    with torch.no_grad(), distviz.watch(model) as watched:
        model(input_ids=torch.arange(3, 10)[None])
    assert set(counts(watched)) == {("decoder", 0), ("decoder", 1)}
    ids = torch.tensor([[3, 60, 60, 60, 60, 4]])
    layers = {"vision_tower": 1, "decoder": "0"}
    with torch.no_grad(), distviz.watch(model, layers) as watched:
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16), token_type_ids=ids * 0)
    assert counts(watched) == {("vision_tower", 1): 4 * 40, ("decoder", 0): 6 * 48}
    with (
        pytest.raises(RequestError, match=r"(?s)no stack 'vision'.*decoder, vision_tower"),
        distviz.watch(model, {"vision": 0}),
    ):
        pass


def test_streams_of_a_token_are_its_channels() -> None:
    """Here they stand before the batch; whether a token is padding holds for all of them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3n_text", **TEXT, hidden_size_per_layer_input=8, vocab_size_per_layer_input=64,
        num_kv_shared_layers=0, layer_types=["full_attention"] * 2, laurel_rank=4,
        activation_sparsity_pattern=[0.0, 0.0],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, mask = torch.arange(3, 17).reshape(2, 7), torch.ones(2, 7)
    mask[0, 5:] = 0
    kept: list[torch.Tensor] = []
    layer = model.get_submodule("model.layers.1")
    handle = layer.register_forward_hook(lambda _, __, out: kept.append(out.clone()))
    with torch.no_grad(), distviz.watch(model, 1, "residual") as watched:
        model(input_ids=ids, attention_mask=mask)
    handle.remove()
    assert kept[0].shape == (4, 2, 7, 32)
    expected = kept[0].permute(1, 2, 0, 3)[mask.bool()].reshape(12, 4 * 32)
    channels = watched.run().channels
    assert channels["max"].tolist() == expected.amax(0).tolist()


def test_parts_of_a_series_are_rows_also_where_there_is_one_series() -> None:
    """A call without text has no tokens whose streams (batch, 1, patches, channels) could be."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "patchtsmixer", context_length=16, patch_length=4, patch_stride=4, num_input_channels=1,
        d_model=8, num_layers=2,
    )  # fmt: skip
    model = AutoModel.from_config(config).eval()
    kept: list[torch.Tensor] = []
    mlp = "encoder.mlp_mixer_encoder.mixers.0.feature_mixer.mlp.fc1"
    handle = model.get_submodule(mlp).register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.no_grad(), distviz.watch(model) as watched:
        model(past_values=torch.randn(2, 16, 1))
    handle.remove()
    assert kept[0].shape == (2, 1, 4, 16)
    channels = watched.run().channels
    found = channels[channels["module"].str.startswith(mlp[: -len(".fc1")])]
    expected = torch.nn.functional.gelu(kept[0]).reshape(8, 16)
    assert found["max"].tolist() == expected.amax(0).tolist()
    assert found["count"].tolist() == [8] * 16


def test_rows_that_are_no_tokens_are_refused_with_padding() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "prophetnet", hidden_size=32, num_encoder_layers=1, num_decoder_layers=1, vocab_size=64,
        num_encoder_attention_heads=4, num_decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=32, num_buckets=4, is_decoder=True,
        add_cross_attention=False, is_encoder_decoder=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, mask = torch.arange(3, 17).reshape(2, 7), torch.ones(2, 7)
    with torch.no_grad(), distviz.watch(model) as watched:
        model(input_ids=ids, use_cache=False)
    assert set(counts(watched).values()) == {3 * 14 * 48}  # the main stream and two that look ahead
    mask[0, 5:] = 0
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match="has 42 rows for 14 tokens"),
        distviz.watch(model),
    ):
        model(input_ids=ids, attention_mask=mask, use_cache=False)


def test_images_of_different_sizes_in_one_row_are_sequences() -> None:
    """ARM takes the patches of each picture for a set, as if it stood alone in the call."""
    model = tiny.build("glm4v_vision")
    grids, width = torch.tensor([[1, 4, 4], [1, 2, 4]]), 3 * model.config.temporal_patch_size * 64
    patches = torch.randn(24, width, generator=torch.Generator().manual_seed(5))
    arm = distviz.ARM(c=1.0, p1=95.0, seed=3)

    def by_hand(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        rows = out.reshape(24, -1)
        parts = [
            arm(part[None], documents=[key])[0] for key, part in enumerate((rows[:16], rows[16:]))
        ]
        return torch.cat(parts).reshape(out.shape)

    with torch.no_grad():
        plain = model(patches, grids)[0]
        with distviz.redistribute(model, arm, 0):
            found = model(patches, grids)[0]
        handle = model.blocks[0].mlp.act_fn.register_forward_hook(by_hand)
        expected = model(patches, grid_thw=grids)[0]
        handle.remove()
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_padding_patches_are_not_counted() -> None:
    model = tiny.build("siglip2_vision_model")
    pixels = torch.randn(2, 16, 192, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 8:] = 0
    shapes = torch.tensor([[4, 4], [2, 4]])
    with torch.no_grad(), distviz.watch(model) as watched:
        model(pixel_values=pixels, pixel_attention_mask=mask, spatial_shapes=shapes)
    inner = model.config.intermediate_size
    assert set(watched.stats()["count"]) == {(16 + 8) * inner}


def test_image_branches_of_layers_are_skipped_unless_named() -> None:
    model = tiny.build("ernie4_5_vl_moe")
    assert not any("vision" in mlp.path for mlp in find_mlps(model))
    assert any("vision_moe" in mlp.path for mlp in find_mlps(model, towers=True))
    with torch.no_grad(), distviz.watch(model) as watched:
        model(input_ids=torch.arange(3, 17).reshape(2, 7))
    assert any("text_moe" in module for module in watched.stats()["module"])


def test_rows_of_experts_belong_to_the_image_of_their_patch() -> None:
    """Three patches of one picture, two of another; each patch goes to two experts."""
    valid, zeros = np.ones((1, 5), bool), np.zeros((1, 5), np.int64)
    patches, slots = np.array([4, 0, 1, 3, 2, 0, 3, 1, 4, 2]), np.repeat([0, 1], 5)
    routed = Routed(patches, slots, slots, n_tokens=5, n_experts=2)
    tokens = Tokens(valid, valid, zeros[0, :1], zeros, zeros, routed=routed, lengths=(3, 2))
    first, second = tokens.sequences()
    assert first.rows.tolist() == [1, 5, 2, 7, 4, 9]
    assert second.rows.tolist() == [3, 6, 0, 8]
    assert (first.document, second.document) == (0, 1)
    assert second.tokens.tolist() == [0, 0, 1, 1]
    assert np.asarray(second.slots).tolist() == [0, 1, 0, 1]


def xlnet() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 64}
    return AutoModel.from_config(AutoConfig.for_model("xlnet", **sizes)).eval()


def test_layers_that_return_tokens_before_texts_are_refused() -> None:
    model, ids = xlnet(), torch.arange(3, 17).reshape(2, 7)
    with (
        pytest.raises(MeasurementError, match="tokens, batch, channels"),
        torch.no_grad(),
        distviz.watch(model),
    ):
        model(ids)
    with (
        pytest.raises(MeasurementError, match="tokens, batch, channels"),
        torch.no_grad(),
        distviz.redistribute(model, ARM(), layers=[1]),
    ):
        model(ids)
    with torch.no_grad(), distviz.watch(model) as watched:
        model(ids[:1])
    assert set(counts(watched).values()) == {7 * 48}
    assert hook_count(model) == 0
