"""Clips on disk come back as they were: records, masks, references, and videos up to compression."""

import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.annotate.sources import find_sources
from alchemint.masks import decoded_mask
from alchemint.record_files import read_records
from alchemint.toyworld import WorldConfig, render_clip
from alchemint.toyworld.clip_files import write_clips


def test_clips_come_back_from_disk(tmp_path):
    clips = [render_clip("train", index, WorldConfig(num_references=2), num_subjects=index % 3) for index in range(4)]
    written = write_clips(clips, tmp_path / "world")
    records = list(read_records(tmp_path / "world"))
    assert records == written
    for clip, record in zip(clips, records, strict=True):
        assert (record.caption, record.events) == (clip.caption, clip.events)
        frames, fps = media.read_video(tmp_path / "world" / record.video)
        assert fps == clip.fps and frames.shape == clip.frames.shape
        assert np.mean((frames.astype(float) - clip.frames) ** 2) < 60
        for entity, subject, masks in zip(record.entities, clip.subjects, clip.masks, strict=True):
            assert (entity.name, entity.word) == (subject.name, subject.word)
            for picture, reference in zip(subject.references, entity.references, strict=True):
                assert np.array_equal(np.asarray(Image.open(tmp_path / "world" / reference.image)), picture)
            assert np.array_equal(np.stack([decoded_mask(text, (64, 64)) for text in entity.track.masks]), masks)
            assert entity.track.areas == tuple(masks.sum((1, 2)))
            for mask, box in zip(masks, entity.track.boxes, strict=True):
                left, top, right, bottom = box or (0, 0, 0, 0)
                assert mask[top:bottom, left:right].sum() == mask.sum()
                assert (box is None) == (not mask.any())
                if box:
                    assert mask[top].any() and mask[bottom - 1].any()
                    assert mask[:, left].any() and mask[:, right - 1].any()


def test_captions_are_as_annotation_takes_them(tmp_path):
    clips = [render_clip("train", index, WorldConfig(), num_subjects=index) for index in range(3)]
    write_clips(clips, tmp_path)
    sources = find_sources(tmp_path / "videos", tmp_path / "captions.jsonl")
    assert [source.name for source in sources] == [f"train-{index:06d}.mp4" for index in range(3)]
    for source, clip in zip(sources, clips, strict=True):
        [given] = source.given
        assert (given.caption, given.events, given.during) == (clip.caption, clip.events, None)


def test_an_odd_size_is_refused_before_records_are_written(tmp_path):
    with pytest.raises(ValueError, match="odd side"):
        write_clips([render_clip("train", 0, WorldConfig(width=65))], tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
