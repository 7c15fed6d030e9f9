"""Guided attention: its loss against a slow loop, which tokens are paired, and that it teaches where to look."""

import math
from collections import deque
from collections.abc import Callable

import pytest
import torch

from alchemint.model.attention_guide import AttentionGuide, guided_loss, pairs_of
from alchemint.model.conditions import References
from alchemint.model.transformer import AlchemintTransformer3DModel

NewTransformer = Callable[..., AlchemintTransformer3DModel]

BATCH, NUM_HEADS, DIM = 2, 6, 5
T, H, W = 2, 3, 4
"""The video's grid of tokens; two references follow it."""

NAN = float("nan")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn_by(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(BATCH)]


def places(*known: tuple[tuple[int, int, int, int, int], tuple[float, float]]) -> torch.Tensor:
    """Places (BATCH, 2, T, H, W, 2) of which only the `known` are there, by (row, reference, t, y, x)."""
    empty = torch.full((BATCH, 2, T, H, W, 2), NAN)
    for index, place in known:
        empty[index] = torch.tensor(place)
    return empty


def test_the_loss_is_the_cross_entropy_of_each_head_at_its_corner() -> None:
    num_keys, num_pairs = 40, 3
    query, key = random(BATCH, num_keys, NUM_HEADS, DIM), random(BATCH, num_keys, NUM_HEADS, DIM, seed=1)
    drawn = torch.Generator().manual_seed(2)
    queries = torch.randint(0, T * H * W, (BATCH, num_pairs), generator=drawn)
    keys = torch.randint(T * H * W, num_keys, (BATCH, num_pairs, 4), generator=drawn)
    weights = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    guide = AttentionGuide((0,), queries, keys, weights, deque())
    expected = 0.0
    for row in range(BATCH):
        of_sample, count = 0.0, 0
        for pair in range(num_pairs):
            for head in range(NUM_HEADS):
                if not weights[row, pair]:
                    continue
                logits = [sum(query[row, queries[row, pair], head, d].item() * key[row, other, head, d].item()
                              for d in range(DIM)) / math.sqrt(DIM) for other in range(num_keys)]
                wanted = int(keys[row, pair, head % 4])
                of_sample += math.log(sum(map(math.exp, logits))) - logits[wanted]
                count += 1
        expected += of_sample / count / BATCH
    assert guided_loss(query, key, guide).item() == pytest.approx(expected, rel=1e-5)
    nothing = guide._replace(weights=torch.zeros_like(weights))
    assert guided_loss(query, key, nothing).item() == 0


def test_pairs_join_a_token_with_the_four_neighbours_of_its_spot() -> None:
    known = places(((0, 0, 0, 1, 2), (1.75, 2.25)), ((0, 1, 1, 2, 0), (0.5, 3.5)), ((1, 1, 1, 0, 3), (-3.0, 9.0)))
    queries, keys, weights = pairs_of(known, H * W, W, num_pairs=3, generators=drawn_by(0))
    assert weights.sum(1).tolist() == [2, 1]
    found = {int(query): key.tolist() for row in range(BATCH)
             for query, key, weight in zip(queries[row], keys[row], weights[row], strict=True) if weight}
    first, second = T * H * W, T * H * W + H * W
    # Between the middles of rows 1 and 2, columns 1 and 2; at the middle of row 0, the last column; outside of it all.
    assert found[0 * 12 + 1 * 4 + 2] == [first + 1 * 4 + 1, first + 1 * 4 + 2, first + 2 * 4 + 1, first + 2 * 4 + 2]
    assert found[1 * 12 + 2 * 4 + 0] == [second + 0 + 3, second + 0 + 3, second + 1 * 4 + 3, second + 1 * 4 + 3]
    assert found[1 * 12 + 0 * 4 + 3] == [second + 3] * 4


def test_pairs_are_drawn_from_all_that_have_a_place() -> None:
    everywhere = places(*(((0, 0, t, y, x), (1.0, 1.0)) for t in range(T) for y in range(H) for x in range(W)))
    seen: set[int] = set()
    for seed in range(200):
        queries, _, weights = pairs_of(everywhere, H * W, W, 2, drawn_by(seed))
        assert weights.tolist() == [[1, 1], [0, 0]]
        seen |= set(queries[0].tolist())
    assert seen == set(range(T * H * W))


@pytest.fixture
def model(new_transformer: NewTransformer) -> AlchemintTransformer3DModel:
    return new_transformer(event_encoding=None)


def test_a_guide_changes_nothing_of_what_comes_out_and_teaches_where_to_look(
    model: AlchemintTransformer3DModel
) -> None:
    """Tokens of the video are copies of the reference's, moved by a token: which token to look up is there to see."""
    references = References(random(1, 1, 4, 8, 8), torch.tensor([[[0.0, 0.0]]]), torch.zeros(1, 1, dtype=torch.long),
                            random(1, 1, 4, 16, seed=3), torch.ones(1, 1, 4, dtype=torch.bool))
    video = references.latents.roll(2, dims=-1).transpose(1, 2)
    inputs = {"hidden_states": video, "timestep": torch.tensor([10.0]), "encoder_hidden_states": random(1, 7, 16),
              "references": references}
    moved = torch.full((1, 1, 1, 4, 4, 2), NAN)
    for y in range(4):
        for x in range(1, 4):
            moved[0, 0, 0, y, x] = torch.tensor([y + 0.5, x - 0.5])
    queries, keys, weights = pairs_of(moved, 16, 4, 12, drawn_by(0)[:1])
    guide = AttentionGuide((1,), queries, keys, weights, deque())
    with torch.no_grad():
        assert torch.equal(model(**inputs, guide=guide).sample, model(**inputs).sample)
    (before,) = guide.losses
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        guide.losses.clear()
        model(**inputs, guide=guide)
        optimizer.zero_grad()
        guide.losses[0].backward()
        optimizer.step()
    assert len(guide.losses) == 1
    assert guide.losses[0].item() < 0.5 * before.item()
