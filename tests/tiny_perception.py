"""Tiny perception models of the real classes, with random weights."""

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
    Sam3VideoConfig,
    Sam3VideoModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SwinConfig,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "a", "photo", "of", "fox", "red", "balloon", "cup"]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SAM_SIZE = 64


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a dozen words with BERT's special tokens in BERT's places."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                   sep_token="[SEP]")


def dino_model() -> GroundingDinoForObjectDetection:
    torch.manual_seed(0)
    return GroundingDinoForObjectDetection(GroundingDinoConfig(
        backbone_config=SwinConfig(image_size=64, patch_size=4, embed_dim=12, depths=[1] * 4, num_heads=[1, 1, 2, 2],
                                   window_size=4, out_features=["stage2", "stage3", "stage4"]),
        text_config=BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **SMALL),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, num_queries=20, max_text_len=32,
        disable_custom_kernels=True)).eval()


def dino_processor() -> GroundingDinoImageProcessorPil:
    return GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})


def clip_model() -> CLIPModel:
    torch.manual_seed(1)
    return CLIPModel(CLIPConfig(
        text_config={"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, **SMALL},
        vision_config={"image_size": 32, "patch_size": 8, **SMALL}, projection_dim=16)).eval()


def clip_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


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


def siglip_model() -> SiglipModel:
    torch.manual_seed(4)
    return SiglipModel(SiglipConfig(
        text_config={"vocab_size": len(WORDS), "max_position_embeddings": 24, **SMALL},
        vision_config={"image_size": 32, "patch_size": 8, **SMALL})).eval()


def siglip_processor() -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": 32, "width": 32})


def siglip2_model() -> Siglip2Model:
    torch.manual_seed(5)
    return Siglip2Model(Siglip2Config(
        text_config={"vocab_size": len(WORDS), "max_position_embeddings": 24, **SMALL},
        vision_config={"num_patches": 16, "patch_size": 8, **SMALL})).eval()


def siglip2_processor() -> Siglip2ImageProcessorPil:
    return Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)


def sam3_model(seed: int = 3) -> Sam3VideoModel:
    """A SAM 3 that takes something for each word from the first frame on, and gives it anew every fourth frame."""
    torch.manual_seed(seed)
    size, patch, dim = 56, 14, 128
    side = size // patch
    layer = {"hidden_size": dim, "num_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    vision = {
        "model_type": "sam3_vision_model", "fpn_hidden_size": dim,
        "backbone_feature_sizes": [[4 * side] * 2, [2 * side] * 2, [side] * 2],
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": size, "patch_size": patch, "window_size": 2,
            "global_attn_indexes": [1], "pretrain_image_size": size}}
    text = {"model_type": "clip_text_model", "vocab_size": len(WORDS), "projection_dim": 16,
            "max_position_embeddings": 32, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, **SMALL}
    model = Sam3VideoModel(Sam3VideoConfig(
        detector_config={
            "model_type": "sam3", "vision_config": vision, "text_config": text, "geometry_encoder_config": layer,
            "detr_encoder_config": layer, "detr_decoder_config": {**layer, "num_queries": 2},
            "mask_decoder_config": {"hidden_size": dim, "num_attention_heads": 4}},
        tracker_config={
            "model_type": "sam3_tracker_video", "vision_config": vision, "image_size": size,
            "prompt_encoder_config": {"hidden_size": dim, "image_size": size, "patch_size": patch},
            "mask_decoder_config": {"hidden_size": dim, "mlp_dim": 64, "num_attention_heads": 2,
                                    "iou_head_hidden_dim": dim},
            "memory_attention_hidden_size": dim, "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": 64, "memory_attention_rope_feat_sizes": [side] * 2,
            "memory_encoder_hidden_size": dim, "memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": dim,
            "memory_fuser_embed_dim": dim, "memory_fuser_intermediate_dim": 64, "memory_fuser_num_layers": 1},
        low_res_mask_size=4 * side, score_threshold_detection=0.0, new_det_thresh=0.0, high_conf_thresh=-100.0,
        high_iou_thresh=0.0, assoc_iou_thresh=0.01, trk_assoc_iou_thresh=0.01, recondition_every_nth_frame=4)).eval()
    torch.nn.init.ones_(model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias)
    return model
