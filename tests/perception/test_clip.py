"""CLIP and SigLIP as comparers, with tiny random models of the real classes."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alchemint.perception.clip import ClipComparer
from tests import tiny_perception as tiny

MODELS: dict[str, Any] = {
    "clip": (tiny.clip_model, tiny.clip_processor), "siglip": (tiny.siglip_model, tiny.siglip_processor),
    "siglip2": (tiny.siglip2_model, tiny.siglip2_processor)}


@pytest.fixture(params=MODELS)
def comparer(request: pytest.FixtureRequest, word_tokenizer: Any) -> ClipComparer:
    model, processor = MODELS[request.param]
    return ClipComparer(model(), word_tokenizer, processor())


def test_embeddings_are_unit_vectors_whatever_the_batch(comparer: ClipComparer, video: np.ndarray) -> None:
    dim = 16 if comparer.model.config.model_type == "clip" else 32
    pictures = [video[0], video[1][:20, :7], video[2][:, :30], *video[3:23]] * 4
    together = comparer.embed_pictures(pictures)
    assert together.shape == (92, dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[[1, 70]], np.concatenate([comparer.embed_pictures([pictures[row]])
                                                                 for row in (1, 70)]), atol=1e-5)
    words = comparer.embed_words(["fox", "red balloon"])
    np.testing.assert_allclose(words[0], comparer.embed_words(["fox"])[0], atol=1e-5)
    assert words.shape == (2, dim)
    assert comparer.embed_pictures([]).shape == (0, dim)


def test_siglip_reads_words_as_it_was_trained_to(word_tokenizer: Any) -> None:
    """In lower case, padded to the text model's full length, without a mask over the padding."""
    model = tiny.siglip_model()
    comparer = ClipComparer(model, word_tokenizer, tiny.siglip_processor(), prompt="A photo of {}.")
    ids = [tiny.WORDS.index(word) for word in ("[CLS]", "a", "photo", "of", "red", "fox", ".", "[SEP]")]
    ids += [tiny.WORDS.index("[PAD]")] * (24 - len(ids))
    with torch.inference_mode():
        expected = F.normalize(model.get_text_features(input_ids=torch.tensor([ids])).pooler_output, dim=-1)
    np.testing.assert_allclose(comparer.embed_words(["Red Fox"]), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(comparer.embed_words(["Red Fox", "a red photo of a red cup"])[:1], expected.numpy(),
                               atol=1e-5)


def test_a_dtype_below_32_bits_changes_little(comparer: ClipComparer, video: np.ndarray) -> None:
    exact = comparer.embed_pictures(list(video[:3])), comparer.embed_words(["fox"])
    comparer.model.to(torch.bfloat16)
    low = comparer.embed_pictures(list(video[:3])), comparer.embed_words(["fox"])
    for ours, theirs in zip(low, exact, strict=True):
        assert ours.dtype == np.float32
        assert (ours * theirs).sum(-1).min() > 0.99


def test_the_sharpness_is_the_factor_of_training(comparer: ClipComparer) -> None:
    assert comparer.sharpness == pytest.approx(float(np.exp(float(comparer.model.logit_scale.detach()))))
