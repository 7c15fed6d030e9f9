"""Word tags: what is a word's, and what is padding."""

import torch

from alchemint.model.conditions import WordTags


def test_tokens_beyond_the_word_are_the_learned_pad() -> None:
    torch.manual_seed(0)
    tags = WordTags(text_dim=6, dim=10)
    embeds, mask = torch.randn(2, 3, 4, 6), torch.rand(2, 3, 4) < 0.5
    tokens = tags(embeds, mask)
    for batch, reference, token in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
        there = mask[batch, reference, token]
        expected = tags.projection(embeds[batch, reference, token]) if there else tags.pad.weight[0]
        assert torch.allclose(tokens[batch, reference, token], expected, atol=1e-6)


def test_what_stands_beyond_the_word_does_not_matter() -> None:
    torch.manual_seed(0)
    tags = WordTags(text_dim=6, dim=10)
    embeds, mask = torch.randn(1, 1, 4, 6), torch.tensor([[[True, True, False, False]]])
    other = embeds.clone()
    other[..., 2:, :] = 7.0
    assert torch.equal(tags(embeds, mask), tags(other, mask))
