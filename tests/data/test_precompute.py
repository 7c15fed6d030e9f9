"""The cache: what is in it is what the encoders make; who writes it, interrupted how often, is no matter."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemint.data import precompute as writing
from alchemint.data.annotated_clips import AnnotatedClips
from alchemint.data.augmentation import AugmentationOptions
from alchemint.data.clip_plans import SampleOptions
from alchemint.data.latent_cache import CacheOptions, LatentCache, content_hash, encoder_identity
from alchemint.data.precompute import Encoders, precompute, spread
from alchemint.data.record_clips import ClipFolder
from alchemint.record_files import read_records, write_records

OPTIONS = CacheOptions(num_windows=3, num_variants=2, clips_per_shard=5)
IDENTITY = {"vae": "a", "text_encoder": "b"}


def encode_videos(videos: torch.Tensor) -> torch.Tensor:
    """A VAE of means: colours per 8 x 8 pixels, of each latent's last frame."""
    pixels = videos[:, :, ::4].float() / 127.5 - 1
    batch, colours, frames, height, width = pixels.shape
    return pixels.reshape(batch, colours, frames, height // 8, 8, width // 8, 8).mean((4, 6))


def embed_texts(texts: list[str]) -> list[torch.Tensor]:
    return [torch.tensor([[float(ord(letter)), 1.0] for letter in f"{text}."]) for text in texts]


ENCODERS = Encoders(encode_videos, embed_texts, IDENTITY)


@pytest.fixture(scope="module")
def clips(world: Path, options: SampleOptions) -> ClipFolder:
    return ClipFolder(world, replace(options, augmentation=AugmentationOptions()))


@pytest.fixture(scope="module")
def written(clips: ClipFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    done = precompute(folder, clips, ENCODERS, OPTIONS)
    assert (done.num_clips, done.num_shards_before, done.broken) == (12, 0, {})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_latents_are_those_of_the_very_window(clips: ClipFolder, written: Path) -> None:
    cache = LatentCache(written, clips, IDENTITY)
    several = 0
    for number, plan in enumerate(clips.plans):
        starts = cache.starts(plan.clip_id)
        several += len(starts) == 3
        assert set(starts) <= set(plan.starts.tolist())
        for place, start in enumerate(starts):
            window = clips.window_at(number, start)
            video = clips.load(window, [], np.random.default_rng(0)).video
            assert video is not None
            latents = cache.latents(plan.clip_id, place)
            assert latents.dtype == torch.float16
            assert torch.equal(latents, encode_videos(video[None].contiguous())[0].half())
    assert several > 3


def test_references_are_latents_of_the_windows_subjects(clips: ClipFolder, written: Path) -> None:
    cache = LatentCache(written, clips, IDENTITY)
    different = 0
    for number, plan in enumerate(clips.plans):
        for place, start in enumerate(cache.starts(plan.clip_id)):
            window = clips.window_at(number, start)
            random = np.random.default_rng((0, number, start))
            picks = [clips.picks(window, random) for _ in range(2)]
            canvases = clips.load(window, [*picks[0], *picks[1]], random).references
            assert canvases is not None
            expected = encode_videos(canvases.unsqueeze(2)).squeeze(2).half() if len(canvases) else canvases
            for variant in range(2):
                for row, entity in enumerate(window.entities):
                    reference, inside = cache.reference(plan.clip_id, place, entity, variant)
                    assert torch.equal(reference, expected[variant * len(window.entities) + row])
                    assert inside == picks[variant][row].inside
            different += sum(not torch.equal(cache.reference(plan.clip_id, place, entity, 0)[0],
                                             cache.reference(plan.clip_id, place, entity, 1)[0])
                             for entity in window.entities)
    assert different > 10


def test_every_text_of_the_clips_has_its_embedding(clips: ClipFolder, written: Path, world: Path) -> None:
    cache = LatentCache(written, clips, IDENTITY)
    texts = {""}
    for record in list(read_records(world))[:12]:
        texts |= {record.caption, *(event.text for event in record.events), *(item.word for item in record.entities)}
    assert len(texts) > 20
    for text in texts:
        assert torch.equal(cache.embedding(text), embed_texts([text])[0])
    with pytest.raises(ValueError, match='no embedding of "a text of no clip"'):
        cache.embedding("a text of no clip")


def test_batches_are_made_from_the_cache(clips: ClipFolder, written: Path) -> None:
    cache = LatentCache(written, clips, IDENTITY)
    dataset = AnnotatedClips(clips, 2, seed=0, cache=cache)
    numbers = {plan.clip_id: number for number, plan in enumerate(clips.plans)}
    for number in range(dataset.batches_per_epoch):
        batch = dataset[number]
        assert batch.videos is None and batch.references is None
        assert batch.latents is not None and batch.reference_latents is not None
        assert batch.latents.dtype == batch.reference_latents.dtype == torch.float32
        assert batch.reference_latents.shape == (2, batch.spans.shape[1], 3, *batch.latents.shape[-2:])
        for row, clip_id in enumerate(batch.clip_ids):
            places = [place for place in range(len(cache.starts(clip_id)))
                      if torch.equal(cache.latents(clip_id, place).float(), batch.latents[row])]
            window = clips.window_at(numbers[clip_id], cache.starts(clip_id)[places[0]])
            words = [window.record.entities[entity].word for entity in window.entities]
            for subject, word in enumerate(batch.words[row]):
                place = words.index(word)
                assert batch.spans[row, subject].tolist() == list(window.spans[place])
                assert any(torch.equal(cache.reference(clip_id, known, window.entities[place], variant)[0].float(),
                                       batch.reference_latents[row, subject])
                           for known in places for variant in range(2))


def test_references_are_cut_at_training_where_the_cache_has_none(clips: ClipFolder, tmp_path: Path) -> None:
    precompute(tmp_path, clips, ENCODERS, replace(OPTIONS, num_variants=0))
    dataset = AnnotatedClips(clips, 2, seed=0, cache=LatentCache(tmp_path, clips, IDENTITY))
    for number in range(dataset.batches_per_epoch):
        batch = dataset[number]
        assert batch.videos is None and batch.reference_latents is None
        assert batch.references is not None and batch.latents is not None
        assert batch.references.shape[:3] == (2, batch.spans.shape[1], 3)


@pytest.mark.parametrize("at", [0, 3, 9, 15])
def test_a_broken_off_run_is_gone_on_with(clips: ClipFolder, written: Path, tmp_path: Path, at: int) -> None:
    calls = iter(range(at))

    def breaking(videos: torch.Tensor) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return encode_videos(videos)

    with pytest.raises(KeyboardInterrupt):
        precompute(tmp_path, clips, replace(ENCODERS, encode_videos=breaking), OPTIONS)
    (tmp_path / ".shard-00002.abcd.partial.safetensors").write_bytes(b"of a killed process")
    with pytest.raises(ValueError, match=r"of 3 shards are missing; run alchemint precompute again"):
        LatentCache(tmp_path, clips, IDENTITY)
    there = len(list(tmp_path.glob("shard-*")))
    assert precompute(tmp_path, clips, ENCODERS, OPTIONS).num_shards_before == there
    assert contents(tmp_path) == contents(written)
    assert precompute(tmp_path, clips, replace(ENCODERS, encode_videos=breaking), OPTIONS).num_clips == 0


def test_an_interrupted_write_leaves_no_shard(
    clips: ClipFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(writing, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        precompute(tmp_path, clips, ENCODERS, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_make_what_one_does(
    clips: ClipFolder, written: Path, tmp_path: Path, num_workers: int
) -> None:
    done = [precompute(tmp_path, clips, ENCODERS, OPTIONS, (part, 2), num_workers) for part in (1, 0)]
    assert [part.num_clips for part in done] == [5, 7]
    assert contents(tmp_path) == contents(written)


@pytest.mark.parametrize(("change", "told"), [
    (lambda clips: ClipFolder(clips.folder, replace(clips.options, fps=5.0)), "fps: 6.0 there, 5.0 now"),
    (lambda clips: ClipFolder(clips.folder, replace(clips.options, augmentation=AugmentationOptions(blur=0.3))),
     "augmentation: "),
])
def test_a_cache_of_other_settings_is_refused(
    clips: ClipFolder, written: Path, change: Callable[[ClipFolder], ClipFolder], told: str
) -> None:
    before = contents(written)
    for opening in (lambda other: LatentCache(written, other, IDENTITY),
                    lambda other: precompute(written, other, ENCODERS, OPTIONS)):
        with pytest.raises(ValueError, match=rf"{told}.*precompute into another folder"):
            opening(change(clips))
    assert contents(written) == before


def test_a_cache_of_other_weights_or_records_is_refused(
    clips: ClipFolder, written: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="vae: a there, c now"):
        LatentCache(written, clips, {**IDENTITY, "vae": "c"})
    with pytest.raises(ValueError, match="num_windows: 3 there, 2 now"):
        precompute(written, clips, ENCODERS, replace(OPTIONS, num_windows=2))
    shutil.copytree(clips.folder, tmp_path / "world")
    first, *others = read_records(clips.folder)
    write_records(tmp_path / "world", [first.model_copy(update={"caption": first.caption + " "}), *others])
    with pytest.raises(ValueError, match="records: "):
        LatentCache(written, ClipFolder(tmp_path / "world", clips.options), IDENTITY)
    with pytest.raises(ValueError, match="holds no cache"):
        LatentCache(tmp_path, clips, IDENTITY)


def test_what_decides_nothing_may_change(clips: ClipFolder, written: Path, tmp_path: Path) -> None:
    other = ClipFolder(clips.folder, replace(clips.options, event_share=0.9, with_masks=False))
    assert LatentCache(written, other, IDENTITY).num_variants == 2
    precompute(tmp_path, clips, ENCODERS, replace(OPTIONS, num_variants=0))
    other = ClipFolder(clips.folder, replace(clips.options, augmentation=AugmentationOptions(blur=0.3)))
    assert LatentCache(tmp_path, other, IDENTITY).num_variants == 0


def test_a_damaged_shard_is_named(clips: ClipFolder, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "cache")
    (tmp_path / "cache" / "shard-00001.safetensors").write_bytes(b"0")
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is no shard of a cache .* remove it"):
        LatentCache(tmp_path / "cache", clips, IDENTITY)


def test_a_clip_that_cannot_be_read_is_left_out_and_named(options: SampleOptions, world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    (folder / "videos" / "train-000009.mp4").write_bytes(b"no video")
    clips = ClipFolder(folder, options)
    done = precompute(tmp_path / "cache", clips, ENCODERS, OPTIONS)
    assert (done.num_clips, list(done.broken)) == (11, ["train-000009"])
    cache = LatentCache(tmp_path / "cache", clips, IDENTITY)
    assert cache.broken == done.broken
    assert "is not a readable video" in cache.broken["train-000009"]
    assert "train-000009" not in cache and "train-000008" in cache
    dataset = AnnotatedClips(clips, 1, seed=0, cache=cache)
    shown = [dataset[number].clip_ids[0] for number in range(dataset.batches_per_epoch)]
    assert sorted(shown) == sorted(plan.clip_id for plan in clips.plans if plan.clip_id != "train-000009")


def test_a_cache_without_a_readable_clip_is_refused(options: SampleOptions, world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    shutil.rmtree(folder / "videos")
    clips = ClipFolder(folder, options)
    assert len(precompute(tmp_path / "cache", clips, ENCODERS, OPTIONS).broken) == 12
    with pytest.raises(ValueError, match="its cache holds none of its 12 clips"):
        AnnotatedClips(clips, 1, seed=0, cache=LatentCache(tmp_path / "cache", clips, IDENTITY))


def test_starts_are_spread_evenly() -> None:
    assert spread(np.arange(40, 52), 3) == [42, 46, 50]
    assert spread(np.arange(9), 1) == [4]
    assert spread(np.array([3, 7]), 5) == [3, 7]


def test_the_hash_of_a_model_tells_its_contents(tmp_path: Path) -> None:
    for name in ("vae", "text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "weights.safetensors").write_bytes(b"abc")
    before = encoder_identity(tmp_path / "vae", tmp_path, 48)
    (tmp_path / "vae" / "readme.md").write_text("no matter")
    assert encoder_identity(tmp_path / "vae", tmp_path, 48) == before
    (tmp_path / "vae" / "weights.safetensors").write_bytes(b"abd")
    after = encoder_identity(tmp_path / "vae", tmp_path, 48)
    assert after["vae"] != before["vae"] and after["text_encoder"] == before["text_encoder"]
    assert encoder_identity(tmp_path / "vae", tmp_path, 47) != after
    with pytest.raises(ValueError, match="holds no weights"):
        content_hash(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["num_windows", "clips_per_shard"])
def test_options_out_of_range_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 0 must be 1 or more"):
        replace(OPTIONS, **{name: 0})
