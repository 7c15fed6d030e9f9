"""Held-out clips as storyboards, and the sheet of what the model makes of them."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from alchemint import timeline
from alchemint.training.recipe import TransformerRecipe
from alchemint.training.transformer import TransformerObjective
from alchemint.training.validation import storyboard_of


def test_a_storyboard_asks_for_what_the_clip_shows(heldout: Callable[..., Any]) -> None:
    for index in range(4):
        clip = heldout(index, 2)
        board = storyboard_of(clip, seed=3, with_events=True)
        assert (board.prompt, board.num_frames, board.fps, board.seed) == (clip.caption, 13, 6.0, 3)
        assert board.warnings() == []
        assert [(event.during, event.text) for event in board.events] == [
            (event.during, event.text) for event in clip.events]
        for subject, shown, mask in zip(board.subjects, clip.subjects, clip.masks, strict=True):
            assert subject.word == shown.word
            first, last = timeline.frames_in(subject.appears[0], 6.0, 13) or (-1, -1)
            assert mask[first].any()
            assert mask[last].any()
            outside = [*mask[:first], *mask[last + 1:]]
            assert all(part.sum() <= 32 * 32 / 500 for part in outside)
        assert storyboard_of(clip, seed=3).events == ()


def test_a_sheet_shows_clips_above_what_is_made_of_them(
    transformer_recipe: Callable[..., TransformerRecipe],
    new_objective: Callable[[TransformerRecipe], TransformerObjective]
) -> None:
    recipe = transformer_recipe()
    new_objective(recipe).write_sheet(recipe.output / "sheet.png")
    with Image.open(recipe.output / "sheet.png") as sheet:
        assert sheet.size == (3 * 32 * (2 + 5), 3 * 32 * 12)
