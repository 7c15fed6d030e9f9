"""A clip through all stages, with tiny random models of the real classes, and where it may end on its way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alchemint import media
from alchemint.annotate import annotation
from alchemint.annotate.annotation import Models, annotate, record_of, video_name
from alchemint.annotate.captioner import Captioner
from alchemint.annotate.clip import Clip, UnfitError
from alchemint.annotate.namers import RuleNamer
from alchemint.annotate.recipe import Captions, Llm, Recipe, load_recipe
from alchemint.annotate.shots import cut
from alchemint.annotate.sources import find_sources
from alchemint.annotate.stages import stages_of
from alchemint.language_model import connect
from alchemint.masks import decoded_mask
from alchemint.perception.clip import ClipComparer
from alchemint.perception.grounding_dino import GroundingDinoFinder
from alchemint.perception.loading import load_comparer, load_detector, load_tracker
from alchemint.perception.sam2 import Sam2Follower
from tests import tiny_perception as tiny
from tests.language_server import serving
from tests.made_videos import made, random_blocks

NUM_FRAMES = 20


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(
        RuleNamer(), GroundingDinoFinder(tiny.dino_model(), tiny.word_tokenizer(), tiny.dino_processor(), 0.0),
        Sam2Follower(tiny.sam_model()), ClipComparer(tiny.clip_model(), tiny.word_tokenizer(), tiny.clip_processor()))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    off = [f"filters.{name}=null" for name in ("min_area", "min_seen_s", "max_truncation", "max_overlap",
                                               "min_identity")]
    return load_recipe(None, ["shots.detector=none", "shots.shortest_s=0.1", "perception.num_search_frames=3",
                              "perception.min_likeness=-1", *off])


@pytest.fixture
def new_clip(tmp_path: Path, recipe: Recipe) -> Callable[[str], Clip]:
    """A clip of noise with a caption."""
    def new(caption: str) -> Clip:
        made(tmp_path / "clips" / "a.mp4", random_blocks(NUM_FRAMES, 48, 80))
        media.write_text(tmp_path / "clips" / "a.txt", caption)
        [clip] = cut(find_sources(tmp_path / "clips")[0], recipe.shots)
        return clip

    (tmp_path / "clips").mkdir()
    return new


def test_a_clip_becomes_a_record(new_clip: Callable, models: Models, recipe: Recipe, tmp_path: Path) -> None:
    clip = annotate(new_clip("A fox chases a cup."), models, recipe)
    record = record_of(clip, str(tmp_path / "records"))
    assert (record.video, record.source, record.caption) == ("../clips/a.mp4", "a.mp4", "A fox chases a cup.")
    assert (record.num_frames, record.width, record.height, record.fps) == (NUM_FRAMES, 80, 48, 25)
    assert {entity.word for entity in record.entities} | {gone.word for gone in record.dropped} == {"fox", "cup"}
    for entity in record.entities:
        assert set(entity.figures) == {"detection", "likeness", "identity", "sharpness", "confidence", "truncation"}
        for area, text in zip(entity.track.areas, entity.track.masks, strict=True):
            assert decoded_mask(text, (80, 48)).sum() == area


def test_runners_get_the_same_stages(
    new_clip: Callable, models: Models, tmp_path: Path, recipe: Recipe
) -> None:
    """What `stages_of` loads does to a clip, one after the other, what `annotate` does."""
    for name, model, processor in (("detector", models.finder.model, tiny.dino_processor()),
                                   ("comparer", models.comparer.model, tiny.clip_processor()),
                                   ("tracker", models.follower.model, None)):
        model.save_pretrained(tmp_path / name)
        if processor is not None:
            processor.save_pretrained(tmp_path / name)
            tiny.word_tokenizer().save_pretrained(tmp_path / name)
    # Loaded in both cases: weights that the model class ties are one only then.
    loaded = Models(RuleNamer(), load_detector(tmp_path / "detector", box_threshold=0.0),
                    load_tracker(tmp_path / "tracker"), load_comparer(tmp_path / "comparer"))
    weights = {name: str(tmp_path / name) for name in ("detector", "comparer", "tracker")}
    recipe = recipe.model_copy(update={"perception": recipe.perception.model_copy(
        update={**weights, "box_threshold": 0.0})})
    clip = staged = new_clip("A fox chases a cup.")
    for stage in stages_of(recipe, "cpu"):
        staged = stage.load()(staged)
    assert record_of(staged, "r") == record_of(annotate(clip, loaded, recipe), "r")


@pytest.mark.parametrize(("caption", "reason"), [
    ("", "no caption is given"), ("Fog over the sea at dawn.", "names nobody")])
def test_a_clip_without_words_ends_with_the_reason(
    new_clip: Callable, models: Models, recipe: Recipe, caption: str, reason: str
) -> None:
    with pytest.raises(UnfitError, match=reason):
        annotate(new_clip(caption), models, recipe)


def test_a_clip_of_which_nobody_is_left_says_who_went_and_why(
    new_clip: Callable, models: Models, recipe: Recipe
) -> None:
    strict = recipe.model_copy(update={"filters": recipe.filters.model_copy(update={"min_seen_s": 99.0})})
    with pytest.raises(UnfitError, match=r'no subject is left: "fox" \(seen\)') as told:
        annotate(new_clip("A fox trots."), models, strict)
    [gone] = told.value.dropped
    assert (gone.word, gone.filter, gone.threshold) == ("fox", "seen", 99.0)


def test_a_model_writes_the_caption_that_is_missing(new_clip: Callable) -> None:
    with serving() as server:
        server.answers = ['{"caption": "A cup falls.", "events": [{"start": 0.1, "end": 0.5, "text": "it falls"}]}']
        captioner = Captioner(connect(server.url), Captions(by="model", model=Llm(model="m"), num_frames=3))
        clip = annotation.caption(new_clip(""), captioner)
        told = annotation.caption(new_clip("A fox."), captioner)
    assert (clip.caption, clip.events[0].during, clip.events[0].text) == ("A cup falls.", (0.1, 0.5), "it falls")
    assert told.caption == "A fox." and len(server.requests) == 1
    pictures = [part for part in server.requests[0]["messages"][1]["content"] if part["type"] == "image_url"]
    assert len(pictures) == 3


def test_only_the_frames_searched_are_read(new_clip: Callable, models: Models, recipe: Recipe) -> None:
    clip = replace(new_clip("A fox."), words=("fox",))
    frames = annotation._spread(clip, 3)
    video = media.read_video(clip.source.address)[0]
    assert sorted(frames.frames) == [3, 10, 16] and frames.shape == video.shape
    assert all(np.array_equal(frames[number], video[number]) for number in frames.frames)
    with pytest.raises(KeyError):
        frames[0]


@pytest.mark.parametrize(("address", "folder", "name"), [
    ("/a/clips/x/fox.mp4", "/a/records", "../clips/x/fox.mp4"), ("s3://b/fox.mp4", "/a/records", "s3://b/fox.mp4"),
    ("/a/fox.mp4", "s3://b/records", "/a/fox.mp4"), ("s3://b/c/fox.mp4", "s3://b/records", "s3://b/c/fox.mp4")])
def test_videos_are_named_so_that_they_are_found(address: str, folder: str, name: str) -> None:
    assert video_name(address, folder) == name
