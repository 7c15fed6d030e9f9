"""Clips: always the same ones, their parts agree with each other, and their intervals are spread as promised."""

import hashlib
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from alchemint import timeline
from alchemint.toyworld import WorldConfig, render_clip, sprites, stream_clips


def checksum_of(clips):
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.frames.tobytes() + clip.masks.tobytes())
        digest.update(repr((clip.caption, clip.events, clip.background)).encode())
        for subject in clip.subjects:
            digest.update(repr((subject.name, subject.word, subject.interval)).encode())
            digest.update(b"".join(reference.tobytes() for reference in subject.references))
    return digest.hexdigest()


def rendered():
    return [render_clip(split, index, WorldConfig()) for split in sprites.SPLITS for index in (0, 7, 123456)]


def test_a_clip_is_the_same_in_every_process_and_under_every_hash_seed():
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_world as t; " \
             "print(t.checksum_of(t.rendered()))"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    elsewhere = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True,
                               check=True).stdout.strip()
    assert elsewhere == checksum_of(rendered())


@pytest.mark.parametrize(("split", "index", "place", "caption"), [
    ("train", 0, "forest", "A waffle rocks in a green forest. The view slowly pans left."),
    ("train", 40, "lake", "A dartboard spins by a calm lake at dawn. The view slowly zooms out."),
    ("validation", 3, "sky", "A squid twirls in a pink evening sky."),
    ("heldout", 5, "meadow", "A view of a misty meadow where a shark hovers and a jellyfish swims."),
])
def test_clips_stay_the_same_from_version_to_version(split, index, place, caption):
    clip = render_clip(split, index, WorldConfig())
    assert (clip.background, clip.caption) == (place, caption)


def test_splits_indices_and_seeds_make_different_clips():
    config = WorldConfig()
    clips = [render_clip("train", 0, config), render_clip("validation", 0, config), render_clip("heldout", 0, config),
             render_clip("train", 1, config), render_clip("train", 0, config, seed=1)]
    assert len({checksum_of([clip]) for clip in clips}) == len(clips)


def test_importing_the_toyworld_loads_neither_torch_nor_the_atlas():
    script = "import alchemint.toyworld as t, sys; assert 'torch' not in sys.modules and 'av' not in sys.modules; " \
             "assert t.world.sprites._atlas.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                   check=True)


@pytest.mark.parametrize("num_subjects", [0, 1, 2, 3, 4])
def test_the_number_of_subjects_can_be_forced(num_subjects):
    clip = render_clip("train", 5, WorldConfig(), num_subjects=num_subjects)
    assert len(clip.subjects) == num_subjects
    assert clip.masks.shape == (num_subjects, 33, 64, 64)


@pytest.mark.parametrize("config", [WorldConfig(128, 128, 33, 8.0, 128, 2), WorldConfig(112, 64, 17, 8.0, 48),
                                    WorldConfig(32, 32, 13, 4.0, 32)])
def test_other_sizes(config):
    for clip in (render_clip("heldout", index, config) for index in range(6)):
        assert clip.frames.shape == (config.num_frames, config.height, config.width, 3)
        assert clip.masks.shape[1:] == clip.frames.shape[:3]
        for subject in clip.subjects:
            assert [reference.shape for reference in subject.references] == \
                   [(config.reference_size, config.reference_size, 4)] * config.num_references


def test_streams_yield_every_stepth_clip():
    stream = stream_clips("train", WorldConfig(), first=3, step=4)
    assert [next(stream).index for _ in range(3)] == [3, 7, 11]


def test_held_out_clips_show_held_out_subjects_alone(heldout_clips):
    heldout = {subject.word for subject in sprites.subjects("heldout")}
    for clip in heldout_clips:
        for subject in clip.subjects:
            assert any(subject.word == word or subject.word.endswith(f" {word}") for word in heldout)


def test_words_stand_in_the_caption_exactly_once(clips, heldout_clips):
    for clip in clips + heldout_clips:
        words = [subject.word for subject in clip.subjects]
        assert len({subject.name for subject in clip.subjects}) == len(words)
        for word in words:
            assert len(re.findall(rf"\b{re.escape(word)}\b", clip.caption)) == 1, clip.caption
        assert len(clip.caption.split()) <= 40
        assert clip.caption[0].isupper() and clip.caption.endswith(".")


def test_some_clips_have_two_of_the_same_word_told_apart_by_colour(clips):
    twins = [clip for clip in clips
             if len({subject.word.split()[-1] for subject in clip.subjects}) < len(clip.subjects)]
    assert len(twins) / sum(len(clip.subjects) > 1 for clip in clips) > 0.08
    assert all(len({subject.word for subject in clip.subjects}) == len(clip.subjects) for clip in twins)


def test_events_follow_each_other_without_overlap(clips):
    for clip in clips:
        assert 1 <= len(clip.events) <= 4
        for event in clip.events:
            assert timeline.frames_in(event.during, clip.fps, len(clip.frames)) is not None
        for before, after in pairwise(clip.events):
            assert before.during[1] <= after.during[0] + 1e-9
            assert before.during[0] < after.during[0]


def test_events_name_subjects_just_while_they_are_seen(clips):
    for clip in clips:
        for subject in clip.subjects:
            for event in clip.events:
                start, end = max(event.during[0], subject.interval[0]), min(event.during[1], subject.interval[1])
                named = re.search(rf"\b{re.escape(subject.word)}\b", event.text) is not None
                assert named == (end > start), (event, subject.word, subject.interval)


def test_intervals_say_what_masks_show(clips):
    for clip in clips:
        for subject, masks in zip(clip.subjects, clip.masks, strict=True):
            shown = [frame for frame in range(len(masks)) if int(masks[frame].sum()) > 64 * 64 / 500]
            assert len(shown) >= 4
            assert timeline.frames_in(subject.interval, clip.fps, len(masks)) == (shown[0], shown[-1])
            outside = [frame for frame in range(len(masks)) if not shown[0] <= frame <= shown[-1]]
            assert all(masks[frame].sum() <= 64 * 64 / 500 for frame in outside)


def test_masks_show_where_the_picture_differs_from_the_background(clips):
    compared = 0
    for clip in clips:
        if len(clip.subjects) != 1 or "slowly" in clip.caption:
            continue
        empty = [frame for frame in range(33) if not clip.masks[0, frame].any()]
        seen = clip.masks[0].any((1, 2)).nonzero()[0]
        if not empty or (empty[0] != 0 and empty[-1] != 32):
            continue
        background = clip.frames[0 if empty[0] == 0 else 32].astype(int)
        moving = [frame for frame in empty if min(abs(frame - seen)) > 4]
        if any(np.abs(clip.frames[frame] - background).max() for frame in moving):
            continue  # a camera that the caption does not mention
        middle = seen[len(seen) // 2]
        change = np.abs(clip.frames[middle] - background).max(-1)
        assert change[clip.masks[0, middle]].mean() > 25
        around = ~clip.masks[0, middle]
        around[1:-1] &= around[:-2] & around[2:]
        around[:, 1:-1] &= around[:, :-2] & around[:, 2:]
        assert np.median(change[around]) == 0
        compared += 1
    assert compared >= 15


def test_intervals_are_spread_over_the_video(clips):
    spans = np.array([subject.interval for clip in clips for subject in clip.subjects]) / timeline.duration_s(25, 6.0)
    from_start, to_end = spans[:, 0] == 0, spans[:, 1] == 1
    assert 0.22 < from_start.mean() < 0.4
    assert 0.22 < to_end.mean() < 0.4
    assert (from_start & to_end).mean() < 0.15
    lengths = spans[:, 1] - spans[:, 0]
    assert np.histogram(lengths, [0.15, 0.3, 0.45, 0.6, 0.75, 1.01])[0].min() > 0.06 * len(lengths)


def test_two_subjects_overlap_in_time_in_about_half_of_the_clips(clips):
    pairs = [[subject.interval for subject in clip.subjects] for clip in clips if len(clip.subjects) == 2]
    overlap = [max(one[0], other[0]) < min(one[1], other[1]) for one, other in pairs]
    assert 0.38 < np.mean(overlap) < 0.66


def test_references_frame_the_subject_tightly_on_nothing(clips):
    for clip in clips[:100]:
        for subject in clip.subjects:
            reference = subject.references[0]
            rows, columns = np.nonzero(reference[..., 3] > 127)
            assert 0.8 * 64 < max(np.ptp(rows), np.ptp(columns)) + 1 <= 62
            assert not reference[reference[..., 3] == 0].any()


def test_references_tell_instances_of_one_word_apart(clips):
    by_word = {}
    for clip in clips:
        for subject in clip.subjects:
            seen = subject.references[0][..., 3] > 127
            by_word.setdefault(subject.word, []).append(subject.references[0][seen][:, :3].mean(0))
    apart = [np.linalg.norm(one - other) for colours in by_word.values() for one, other in pairwise(colours)]
    assert len(apart) > 50
    assert np.median(apart) > 50


@pytest.mark.parametrize(("arguments", "message"), [
    (("test", 0), 'split "test"'), (("train", -1), "index -1"), (("train", 0, 5), "num_subjects 5")])
def test_wrong_arguments_are_named(arguments, message):
    split, index, *rest = arguments
    with pytest.raises(ValueError, match=message):
        render_clip(split, index, WorldConfig(), *rest)


@pytest.mark.parametrize(("values", "message"), [
    ({"width": 16}, "size 16x64"), ({"num_frames": 24}, "num_frames 24"), ({"fps": 0.0}, "fps 0")])
def test_wrong_sizes_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**values)


def test_the_map_to_the_reference_leads_to_the_same_spot_of_the_subject(clips):
    """What a frame shows of a subject is there in its reference, in a like colour: lit otherwise, slightly turned."""
    inside, apart, strangers = [], [], []
    for clip in clips[:120]:
        for number, subject in enumerate(clip.subjects):
            reference = subject.references[0].astype(float)
            for frame in np.flatnonzero(clip.masks[number].any((1, 2)))[::5]:
                rows, columns = np.nonzero(clip.masks[number, frame])
                to_reference = subject.to_reference[frame]
                x, y = to_reference[:, :2] @ (columns + 0.5, rows + 0.5) + to_reference[:, 2:]
                places = np.floor([y, x]).astype(int).clip(0, len(reference) - 1)
                found = reference[tuple(places)]
                inside.append((found[:, 3] > 127).mean())
                if inside[-1] > 0.9:
                    shown = clip.frames[frame][rows, columns]
                    apart.append(np.abs(shown - found[:, :3]).mean())
                    strangers.append(np.abs(shown - np.random.default_rng(0).permutation(found[:, :3])).mean())
    assert np.mean(inside) > 0.95
    # Fading subjects show the background, too.
    assert np.median(apart) < 0.5 * np.median(strangers)


def test_there_is_a_map_just_while_the_subject_is_there(clips):
    num_stays = num_partial = 0
    for clip in clips[:60]:
        for number, subject in enumerate(clip.subjects):
            assert subject.to_reference.shape == (len(clip.frames), 2, 3)
            known = ~np.isnan(subject.to_reference)
            there = known.all((1, 2))
            assert (there == known.any((1, 2))).all(), "a map is there as a whole or not at all"
            assert there[clip.masks[number].any((1, 2))].all()
            stay = np.flatnonzero(there)
            assert len(stay) == stay[-1] - stay[0] + 1
            num_stays += 1
            num_partial += not there.all()
    assert num_partial > num_stays / 2, "most subjects are not there all the time"


def test_references_face_as_the_subject_does_in_most_of_what_is_seen(clips):
    for clip in clips[:120]:
        for number, subject in enumerate(clip.subjects):
            mirrored = np.linalg.det(np.nan_to_num(subject.to_reference[:, :, :2])) < 0
            areas = clip.masks[number].sum((1, 2))
            assert areas[mirrored].sum() <= areas[~mirrored].sum()
