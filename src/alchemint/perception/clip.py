"""CLIP (Radford et al., arXiv 2103.00020) and SigLIP (Zhai et al., arXiv 2303.15343; SigLIP 2, arXiv 2502.14786): how
much a picture is like a word, or like another picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, PreTrainedTokenizerBase, Siglip2Model, SiglipModel

_PICTURES_PER_BATCH = 64


@dataclass(frozen=True)
class ClipComparer:
    """Compares by CLIP or SigLIP; `processor` is the image processor that goes with the model."""

    model: CLIPModel | SiglipModel | Siglip2Model
    tokenizer: PreTrainedTokenizerBase
    processor: Any
    prompt: str = "a photo of a {}"

    @property
    def sharpness(self) -> float:
        """The likenesses' factor by which the model was trained, about 100."""
        return float(self.model.logit_scale.detach().exp())

    @torch.inference_mode()
    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Return unit vectors (words, dim), each of the prompt with the word in it."""
        texts = [self.prompt.format(word) for word in words]
        if isinstance(self.model, CLIPModel):
            inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            return _unit(self.model.get_text_features(input_ids=inputs["input_ids"],
                                                      attention_mask=inputs["attention_mask"]).pooler_output)
        # As it was trained: lower case, always the full length, and padding attended to like anything else.
        inputs = self.tokenizer([text.lower() for text in texts], padding="max_length", truncation=True,
                                max_length=self.model.config.text_config.max_position_embeddings,
                                return_tensors="pt").to(self.model.device)
        return _unit(self.model.get_text_features(input_ids=inputs["input_ids"]).pooler_output)

    @torch.inference_mode()
    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit vectors (pictures, dim) of pictures (height, width, 3) uint8 of any sizes."""
        rows = [np.zeros((0, self._dim), np.float32)]
        for first in range(0, len(pictures), _PICTURES_PER_BATCH):
            # Said outright: of a picture three or four pixels high the processor would take the rows for channels.
            inputs = self.processor(images=list(pictures[first:first + _PICTURES_PER_BATCH]), return_tensors="pt",
                                    input_data_format="channels_last").to(self.model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            rows.append(_unit(self.model.get_image_features(**inputs).pooler_output))
        return np.concatenate(rows)

    @property
    def _dim(self) -> int:
        config = self.model.config
        return int(config.projection_dim if isinstance(self.model, CLIPModel) else config.vision_config.hidden_size)


def _unit(features: torch.Tensor) -> np.ndarray:
    return np.asarray(F.normalize(features.float(), dim=-1).cpu())
