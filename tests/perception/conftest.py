"""Tiny perception models of the real classes, with random weights, and a video for them to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    PreTrainedTokenizerFast,
    Sam2HieraDetConfig,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
    SwinConfig,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "a", "photo", "of", "fox", "red", "balloon", "cup"]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SAM_SIZE = 64


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a dozen words with BERT's special tokens in BERT's places."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                   sep_token="[SEP]")


@pytest.fixture(scope="session")
def dino_model() -> GroundingDinoForObjectDetection:
    torch.manual_seed(0)
    return GroundingDinoForObjectDetection(GroundingDinoConfig(
        backbone_config=SwinConfig(image_size=64, patch_size=4, embed_dim=12, depths=[1] * 4, num_heads=[1, 1, 2, 2],
                                   window_size=4, out_features=["stage2", "stage3", "stage4"]),
        text_config=BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **SMALL),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, num_queries=20, max_text_len=32,
        disable_custom_kernels=True)).eval()


@pytest.fixture(scope="session")
def dino_processor() -> GroundingDinoImageProcessorPil:
    return GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})


@pytest.fixture(scope="session")
def clip_model() -> CLIPModel:
    torch.manual_seed(1)
    return CLIPModel(CLIPConfig(
        text_config={"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, **SMALL},
        vision_config={"image_size": 32, "patch_size": 8, **SMALL}, projection_dim=16)).eval()


@pytest.fixture(scope="session")
def clip_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="session")
def sam_model() -> Sam2VideoModel:
    torch.manual_seed(2)
    dim = 128
    backbone = Sam2HieraDetConfig(
        image_size=[SAM_SIZE, SAM_SIZE], hidden_size=8, num_attention_heads=1, embed_dim_per_stage=[8, 16, 32, 64],
        blocks_per_stage=[1, 1, 2, 1], num_attention_heads_per_stage=[1] * 4, window_size_per_stage=[4] * 4,
        global_attention_blocks=[3])
    return Sam2VideoModel(Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[SAM_SIZE // 4] * 2, [SAM_SIZE // 8] * 2, [SAM_SIZE // 16] * 2],
            fpn_hidden_size=dim),
        prompt_encoder_config={"hidden_size": dim, "image_size": SAM_SIZE, "patch_size": 16},
        mask_decoder_config={"hidden_size": dim, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": dim},
        image_size=SAM_SIZE, memory_attention_hidden_size=dim, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64, memory_attention_rope_feat_sizes=[SAM_SIZE // 16] * 2,
        memory_encoder_hidden_size=dim, memory_encoder_output_channels=64, mask_downsampler_embed_dim=dim,
        memory_fuser_embed_dim=dim, memory_fuser_intermediate_dim=64, memory_fuser_num_layers=1)).eval()


@pytest.fixture(scope="session")
def video() -> np.ndarray:
    """A bright square that moves over noise: 24 frames of 80 x 48 pixels."""
    frames = np.random.default_rng(0).integers(0, 90, (24, 48, 80, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[10:30, 2 * number:2 * number + 20] = (250, 200, 30)
    return frames


@pytest.fixture(scope="session")
def saved_models(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Path]:
    """A function that saves parts side by side into one folder, as a hub repository holds them."""

    def save(name: str, *parts: Any) -> Path:
        folder: Path = tmp_path_factory.mktemp(name)
        for part in (*parts, word_tokenizer):
            part.save_pretrained(folder)
        return folder

    return save
