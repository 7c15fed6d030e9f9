"""CLIP (Radford et al., arXiv 2103.00020): how much a picture is like a word, or like another picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerBase

_PICTURES_PER_BATCH = 64


@dataclass(frozen=True)
class ClipComparer:
    """Embeds words and pictures on one unit sphere, where the dot product is their likeness."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    processor: CLIPImageProcessorPil
    prompt: str = "a photo of a {}"

    @torch.inference_mode()
    def embed_words(self, words: Sequence[str]) -> np.ndarray:
        """Return unit vectors (words, dim), each of the prompt with the word in it."""
        inputs = self.tokenizer([self.prompt.format(word) for word in words], padding=True, truncation=True,
                                return_tensors="pt").to(self.model.device)
        features = self.model.get_text_features(input_ids=inputs["input_ids"],
                                                attention_mask=inputs["attention_mask"]).pooler_output
        return np.asarray(F.normalize(features.float(), dim=-1).cpu())

    @torch.inference_mode()
    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit vectors (pictures, dim) of pictures (height, width, 3) uint8 of any sizes."""
        rows = [np.zeros((0, self.model.config.projection_dim), np.float32)]
        for first in range(0, len(pictures), _PICTURES_PER_BATCH):
            # Said outright: of a picture three or four pixels high the processor would take the rows for channels.
            inputs = self.processor(images=list(pictures[first:first + _PICTURES_PER_BATCH]), return_tensors="pt",
                                    input_data_format="channels_last")
            features = self.model.get_image_features(
                pixel_values=inputs["pixel_values"].to(self.model.device, self.model.dtype)).pooler_output
            rows.append(np.asarray(F.normalize(features.float(), dim=-1).cpu()))
        return np.concatenate(rows)
