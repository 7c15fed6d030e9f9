"""Captions: articles, and events that are cut where subjects come and go."""

from itertools import pairwise

import numpy as np
import pytest

from alchemint.toyworld import captions


@pytest.mark.parametrize(("word", "phrase"), [("fox", "a fox"), ("owl", "an owl"), ("unicorn", "a unicorn"),
                                              ("umbrella", "an umbrella"), ("orange cat", "an orange cat")])
def test_articles(word, phrase):
    assert captions.with_article(word) == phrase


def test_merging_keeps_order_covers_everything_and_leaves_few_long_spans():
    rng = np.random.default_rng(0)
    for _ in range(200):
        cuts = [0, *sorted(rng.choice(np.arange(1, 25), 7, replace=False).tolist()), 25]
        merged = captions._merged([(start, stop - 1) for start, stop in pairwise(cuts)])
        assert 1 <= len(merged) <= captions.MAX_EVENTS
        assert merged[0][0] == 0 and merged[-1][1] == 24
        assert all(before[1] + 1 == after[0] for before, after in pairwise(merged))
        assert all(last - first + 1 >= 4 for first, last in merged)
