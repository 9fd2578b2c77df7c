"""What a default configuration leaves unset, or what small sizes would contradict, by type."""

from __future__ import annotations

from typing import Any

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, LAYERS = 64, 4, 2, 16, 96, 128, 2

_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_IMAGE_ROPE = {
    "rope_parameters": _ROPE | {"mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}
}
_SHARED_TWICE = {
    "num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    "attention_hidden_size": 2 * HIDDEN, "attention_head_dim": 2 * HEAD_DIM,
}  # fmt: skip
_TINY_TIMM = {"model_type": "timm_wrapper", "architecture": "resnet18"}
_TINY_PE = {
    "model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384",
    "num_classes": 1024, "do_pooling": True, "global_pool": "map",
    "model_args": {"img_size": [32, 32], "depth": 2},
}  # fmt: skip
UNSET: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE | {"mrope_section": [4, 2, 2]}}
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": KV_HEADS, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots1": {
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "dots3_note_text": {"head_dim": 2 * HEAD_DIM},
    "esm": {"vocab_size": VOCAB, "pad_token_id": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_hidden_layers": 16},
    "hunyuan_v1_dense": {"head_dim": HEAD_DIM},
    "hunyuan_v1_moe": {"head_dim": HEAD_DIM},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "chameleon": {"vocabulary_map": {"<image>": 90, "IMGIMGAZ": 91, "IMGIMGBZ": 92}},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    "ernie4_5_vl_moe_text": {"rope_parameters": _ROPE | {"mrope_section": [3, 3, 2]}},
    "hunyuan_vl_text": {"head_dim": HEAD_DIM} | _IMAGE_ROPE,
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16},
    "led": {"attention_window": [4, 4]},
    "lilt": {"hidden_size": 96},
    "mistral4": {
        "rope_parameters": _ROPE | {
            "partial_rotary_factor": 0.5, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        }
    },
    "mobilebert": {"intra_bottleneck_size": HIDDEN},
    "moonshine": {
        "encoder_num_key_value_heads": HEADS, "decoder_num_key_value_heads": HEADS,
    },
    "moonshine_streaming": {"num_key_value_heads": HEADS},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "step3p5": {"sliding_window": 4},
    "ministral": {"head_dim": HEAD_DIM},
    "nemotron": {"head_dim": HEAD_DIM, "num_key_value_heads": KV_HEADS},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh"], "num_buckets": 2,
    },
    **dict.fromkeys(
        (
            *("glm4v_text", "glm4v_moe_text", "glm_image_text", "glm_ocr_text", "glmga_text"),
            *("paddleocr_vl_text", "qwen2_5_omni_text", "qwen2_5_vl_text", "qwen2_vl_text"),
        ),
        _IMAGE_ROPE,
    ),
    "exaone4_5_vision": {"window_size": 32},
    "qwen2_5_vl_vision": {"window_size": 32},
    "deepseek_ocr2_text": {
        "mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1,
    },
    "audio-spectrogram-transformer": {"max_length": 64},
    "blip-2": {"num_query_tokens": 4, "image_token_index": 120},
    "instructblip": {"num_query_tokens": 4, "image_token_index": 120},
    "instructblipvideo": {"num_query_tokens": 1, "video_token_index": 120},
    "clap_audio_model": {"hidden_size": 512},
    "clvp_encoder": {"num_attention_heads": 2},
    "encodec": {"codebook_dim": HIDDEN},
    "sam2_hiera_det_model": {"hidden_size": 96},
    "xcodec": {"codebook_dim": 2 * HIDDEN},
    "align_vision_model": {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256},
    "bros": {
        "dim_bbox_projection": HEAD_DIM, "dim_bbox_sinusoid_emb_2d": HEAD_DIM,
        "dim_bbox_sinusoid_emb_1d": 2,
    },
    "autoformer": {"prediction_length": 4, "context_length": 8, "label_length": 4},
    "informer": {"prediction_length": 4, "context_length": 8},
    "time_series_transformer": {
        "prediction_length": 4, "context_length": 8,
    },
    "depth_pro": {"patch_size": 32, "intermediate_hook_ids": [1, 0]},
    "donut-swin": {"image_size": 128},
    "efficientnet": {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256},
    "florence_vision": {"embed_dim": [32, 32, 64, 64], "projection_dim": HIDDEN},
    "janus_vqgan": {"base_channels": 32, "latent_channels": 32},
    "perceiver": {"d_latents": 64, "num_latents": 8, "d_model": 64},
    "sam2_prompt_encoder": {"image_size": 32, "patch_size": 16},
    "sam2_vision_model": {"backbone_feature_sizes": [[8, 8], [4, 4], [2, 2]]},
    "sam3_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "seggpt": {"image_size": [64, 32], "pretrain_image_size": 32},
    "muse_spark_audio": {"hidden_sizes": [32, 32, 64, 64]},
    "sapiens2": {"num_key_value_heads_per_layer": None},
    "swin": {"image_size": 128},
    "efficientloftr": {
        "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8,
    },
    "molmo2_adapter": {"vision_feature_layer": [0, 1]},
    "fun_asr_nano": {
        "adaptor_config": {
            "hidden_size": HIDDEN, "intermediate_size": HIDDEN // 4, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
        }
    },
    "granite4_vision": {"deepstack_layer_map": [[0, 0]], "downsample_rate": "2/4"},
    "lw_detr": {
        "projector_scale_factors": [1.0], "projector_in_channels": [HIDDEN],
        "num_feature_levels": 1,
    },
    "lw_detr_vit": {"image_size": 64, "pretrain_image_size": 64},
    "vibevoice_acoustic_tokenizer": {"num_filters": 2},
    "vibevoice_acoustic_tokenizer_decoder": {"num_filters": 2},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2},
    "tvp": {"visual_prompt_size": 8, "max_img_size": 64, "num_frames": 2},
    "clvp_decoder": {"decoder_fixing_codes": [83, 45, 45, 90]},
    "sam_vision_model": {"output_channels": HIDDEN},
    "sam_hq_vision_model": {"output_channels": HIDDEN},
    "edgetam_vision_model": {
        "backbone_config": {
            "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2,
            "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
        },
        "backbone_feature_sizes": [[8, 8], [4, 4], [2, 2]],
    },
    "edgetam_prompt_encoder": {"image_size": 32, "patch_size": 16},
    "fast_vlm": {
        "vision_config": _TINY_TIMM | {"num_classes": 2, "hidden_size": 512, "global_pool": "avg"}
    },
    "pe_video_encoder": {"vision_config": _TINY_PE},
    "gemma3n": {"vision_config": _TINY_TIMM | {"model_type": "gemma3n_vision"}},
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper", "architecture": "vit_pe_lang_large_patch14_448",
            "model_args": {"embed_dim": HIDDEN, "img_size": [32, 32], "depth": 2, "num_heads": 4},
        }
    },
    "xcodec2": {"quantization_dim": 2 * HIDDEN},
    "neucodec": {"quantization_dim": 2 * HIDDEN},
    "xmod": {"default_language": "en_XX"},
    "zamba": _SHARED_TWICE,
    "zamba2": _SHARED_TWICE | {"hybrid_layer_ids": [1, 2]},
}  # fmt: skip
