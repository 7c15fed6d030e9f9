"""Writes a latent cache. Broken off, it goes on where it was: shards that are there are left as they are. Several
processes share the shards among them; what a shard holds depends on neither."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from alchemint import media
from alchemint.data import latent_cache
from alchemint.data.latent_cache import CacheOptions, shard_path
from alchemint.data.record_clips import ClipFolder
from alchemint.record_files import read_record

Tensor = torch.Tensor

Progress = Callable[[Iterable["LoadedClip"], int], Iterable["LoadedClip"]]
"""(items, how many) -> the items, of which it may tell somebody."""


@dataclass(frozen=True)
class Encoders:
    """encode_videos: uint8 (batch, 3, frames, height, width) -> normalised latents (batch, C, T, h, w). embed_texts:
    texts -> the embedding (tokens, text_dim) of each one's own tokens. identity: `latent_cache.encoder_identity`."""

    encode_videos: Callable[[Tensor], Tensor]
    embed_texts: Callable[[list[str]], list[Tensor]]
    identity: Mapping[str, str]


@dataclass(frozen=True)
class LoadedWindow:
    """A window that begins at the clip's frame `start`: video (3, F, H, W) uint8, the record's entities seen in it,
    references (V, N, 3, H, W) uint8, and for each of them whether it is from within the window."""

    start: int
    video: Tensor
    entities: tuple[int, ...]
    references: Tensor
    inside: list[list[bool]]


@dataclass(frozen=True)
class LoadedClip:
    """The windows and texts of the clip of plan `number`, or the reason why it cannot be read."""

    number: int
    clip_id: str
    windows: list[LoadedWindow] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    fault: str | None = None


@dataclass(frozen=True)
class Precomputed:
    """What a call did: clips written, shards that were there already, and the clips left out, each with the reason."""

    num_clips: int
    num_shards_before: int
    broken: dict[str, str]


class ClipWindows(Dataset[LoadedClip]):
    """The windows of chosen clips, in pixels."""

    def __init__(self, clips: ClipFolder, numbers: Sequence[int], options: CacheOptions) -> None:
        self._clips = clips
        self._numbers = numbers
        self._options = options

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> LoadedClip:
        number = self._numbers[place]
        plan = self._clips.plans[number]
        try:
            record = read_record(self._clips.folder, plan.place)
            windows = [self._window(number, start) for start in spread(plan.starts, self._options.num_windows)]
        except (ValueError, OSError) as error:
            return LoadedClip(number, plan.clip_id, fault=str(error))
        texts = [record.caption, *(event.text for event in record.events), *(entity.word for entity in record.entities)]
        return LoadedClip(number, plan.clip_id, windows, texts)

    def _window(self, number: int, start: int) -> LoadedWindow:
        random = np.random.default_rng((self._options.seed, number, start))
        window = self._clips.window_at(number, start)
        picks = [self._clips.picks(window, random) for _ in range(self._options.num_variants)]
        sample = self._clips.load(window, [pick for row in picks for pick in row], random)
        assert sample.video is not None and sample.references is not None
        shape = self._options.num_variants, len(window.entities)
        return LoadedWindow(start, sample.video, window.entities, sample.references.reshape(
            *shape, *sample.references.shape[1:]), [[pick.inside for pick in row] for row in picks])


def spread(starts: np.ndarray, count: int) -> list[int]:
    """Return `count` of the starts, or all where there are no more, evenly spread: the middles of equal parts."""
    places = (np.arange(count) + 0.5) * len(starts) / count
    return [int(start) for start in starts[np.unique(places.astype(int))]]


def precompute(folder: Path, clips: ClipFolder, encoders: Encoders, options: CacheOptions,
               share: tuple[int, int] = (0, 1), num_workers: int = 0,
               progress: Progress = lambda items, total: items) -> Precomputed:
    """Write the shards of a cache into `folder` that are this process's share, (part, number of parts), and not there.

    A clip that cannot be read is left out and named. Raises ValueError when `folder` holds a cache of something else.
    """
    plan_numbers = range(len(clips.plans))
    shards = [plan_numbers[first:first + options.clips_per_shard]
              for first in range(0, len(plan_numbers), options.clips_per_shard)]
    _describe(folder, latent_cache.cache_settings(clips, options, encoders.identity), len(shards))
    mine = range(len(shards))[share[0]::share[1]]
    pending = [shard for shard in mine if not shard_path(folder, shard).is_file()]
    numbers = [number for shard in pending for number in shards[shard]]
    loader = DataLoader(ClipWindows(clips, numbers, options), batch_size=None, num_workers=num_workers,
                        collate_fn=_as_it_is)
    loaded = iter(progress(loader, len(numbers)))
    broken: dict[str, str] = {}
    for shard in pending:
        # Left by a process that was killed while it wrote; a shard belongs to one process.
        for stale in folder.glob(f".{shard_path(folder, shard).stem}.*"):
            stale.unlink()
        broken |= _write_shard(shard_path(folder, shard), islice(loaded, len(shards[shard])), encoders)
    assert next(loaded, None) is None
    return Precomputed(len(numbers) - len(broken), len(mine) - len(pending), broken)


def _write_shard(path: Path, loaded: Iterable[LoadedClip], encoders: Encoders) -> dict[str, str]:
    """Encode clips and write them as a shard; return the broken ones."""
    tensors: dict[str, Tensor] = {}
    clips: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    texts = {"": None}
    for clip in loaded:
        if clip.fault is not None:
            broken[clip.clip_id] = clip.fault
            continue
        row = len(clips)
        for number, window in enumerate(clip.windows):
            tensors[latent_cache.latents_name(row, number)] = _encoded(encoders, window.video[None])[0]
            if window.references.numel():
                stills = window.references.flatten(0, 1).unsqueeze(2)
                tensors[latent_cache.references_name(row, number)] = _encoded(encoders, stills).squeeze(2).unflatten(
                    0, window.references.shape[:2])
        clips.append({"clip_id": clip.clip_id, "row": row, "starts": [window.start for window in clip.windows],
                      "entities": [window.entities for window in clip.windows],
                      "inside": [window.inside for window in clip.windows]})
        texts |= dict.fromkeys(clip.texts)
    for number, embedding in enumerate(encoders.embed_texts(list(texts))):
        tensors[latent_cache.text_name(number)] = embedding.cpu().contiguous()
    index = json.dumps({"clips": clips, "texts": list(texts), "broken": broken})
    with media.atomic_path(path) as partial:
        save_file(tensors, partial, {latent_cache.INDEX: index})
    return broken


def _encoded(encoders: Encoders, videos: Tensor) -> Tensor:
    return encoders.encode_videos(videos.contiguous()).to("cpu", torch.float16).contiguous()


def _describe(folder: Path, settings: dict[str, Any], num_shards: int) -> None:
    """Write what the cache is made of, or check that the one that is there is made of the same."""
    path = folder / latent_cache.CACHE_FILE
    if path.is_file():
        latent_cache.check_settings(folder, settings)
        return
    description = {"key": latent_cache.key_of(settings), "num_shards": num_shards, "settings": settings}
    media.write_text(path, json.dumps(description, indent=1) + "\n")


def _as_it_is(clip: Any) -> Any:
    return clip
