"""Latents and text embeddings of a folder's clips, computed once by `data.precompute` and read by many runs.

    <cache>/cache.json                   all settings that decide the contents, and their hash, the key
    <cache>/shard-00000.safetensors      a fixed number of clips: windows as latents in float16, perhaps references, and
                                         the embeddings of the clips' texts; an index of them all lies in its metadata

A cache that was made with other settings or other weights is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from alchemint.data.record_clips import ClipFolder
from alchemint.record_files import fingerprint

Tensor = torch.Tensor

VERSION = 1
CACHE_FILE = "cache.json"
INDEX = "index"
"""The one metadata entry of a shard; more than one would be written in any order."""


@dataclass(frozen=True)
class CacheOptions:
    """How much of each clip is computed.

    num_windows: windows of a clip, evenly spread over those that may be drawn; fewer where a clip has fewer.
    num_variants: references of each subject of each window, drawn and augmented; 0 leaves them to be cut at training.
    """

    num_windows: int = 4
    num_variants: int = 0
    clips_per_shard: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_windows", 1), ("num_variants", 0), ("clips_per_shard", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be {least} or more")


def shard_path(folder: Path, shard: int) -> Path:
    """Return where shard number `shard` lies."""
    return folder / f"shard-{shard:05d}.safetensors"


def content_hash(path: Path) -> str:
    """Return a hash of a file, or of the names and contents of a folder's JSON, safetensors and tokenizer files."""
    kinds = (".json", ".safetensors", ".model", ".txt")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in kinds)
    if not files:
        raise ValueError(f"{path} holds no weights; name the folder of a model, with safetensors files")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path) if file != path else ''} {content}\n".encode())
    return digest.hexdigest()[:16]


def encoder_identity(vae: Path, pipeline: Path, max_tokens: int) -> dict[str, str]:
    """Return what tells encoders from others: hashes of a VAE's folder and of a pipeline's text encoder and tokenizer,
    and where texts end."""
    parts = {"vae": vae, "text_encoder": pipeline / "text_encoder", "tokenizer": pipeline / "tokenizer"}
    return {**{name: content_hash(path) for name, path in parts.items()}, "max_tokens": str(max_tokens)}


def cache_settings(clips: ClipFolder, options: CacheOptions, encoders: Mapping[str, str]) -> dict[str, Any]:
    """Return all that decides a cache's contents, as JSON has it.

    encoders: see `encoder_identity`.
    """
    sampling = asdict(clips.options)
    wanted = ["sizes", "num_frames", "fps", "max_subjects", "min_area"]
    if options.num_variants:
        wanted += ["canvas_share", "augmentation"]
    settings = {"version": VERSION, **{name: sampling[name] for name in wanted}, **asdict(options),
                "records": fingerprint(clips.folder), **encoders}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def key_of(settings: Mapping[str, Any]) -> str:
    """Return the hash of a cache's settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def check_settings(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError when the cache in `folder` was made with other settings; the message names them."""
    made = _description(folder)
    if made["key"] == key_of(wanted):
        return
    differing = [f"{name}: {made['settings'].get(name)} there, {wanted.get(name)} now"
                 for name in sorted({*made["settings"], *wanted}) if made["settings"].get(name) != wanted.get(name)]
    raise ValueError(f"{folder} is a cache of something else ({'; '.join(differing) or 'its key is damaged'}); set "
                     "these as they were, or precompute into another folder")


class LatentCache:
    """Reads a cache. It can be sent to the processes that load data; files are opened when something is read."""

    def __init__(self, folder: Path, clips: ClipFolder, encoders: Mapping[str, str]) -> None:
        """Open the cache that was made of `clips` by `encoders` (see `encoder_identity`).

        Raises ValueError when there is none, when it was made with other settings, or is not complete.
        """
        made = _description(folder)
        self.options = CacheOptions(**{name: made["settings"].get(name) for name in asdict(CacheOptions())})
        check_settings(folder, cache_settings(clips, self.options, encoders))
        self._folder = folder
        self._clips: dict[str, tuple[int, dict[str, Any]]] = {}
        self._texts: dict[str, tuple[int, int]] = {}
        self.broken: dict[str, str] = {}
        shards = range(made["num_shards"])
        missing = sum(not shard_path(folder, shard).is_file() for shard in shards)
        if missing:
            raise ValueError(f"{folder}: {missing} of {len(shards)} shards are missing; run alchemint precompute again "
                             "with the same options to finish it")
        for shard in shards:
            index = read_index(shard_path(folder, shard))
            self._clips |= {clip["clip_id"]: (shard, clip) for clip in index["clips"]}
            self._texts |= {text: (shard, number) for number, text in enumerate(index["texts"])}
            self.broken |= index["broken"]

    @property
    def num_variants(self) -> int:
        """How many variants of each reference there are; 0: references are not in this cache."""
        return self.options.num_variants

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._clips

    def starts(self, clip_id: str) -> list[int]:
        """Return the frames of a clip at which its windows begin."""
        starts: list[int] = self._clips[clip_id][1]["starts"]
        return starts

    def latents(self, clip_id: str, window: int) -> Tensor:
        """Return the normalised latents (C, T, h, w) float16 of a clip's window, by its number in `starts`."""
        shard, clip = self._clips[clip_id]
        return self._read(shard, latents_name(clip["row"], window))

    def reference(self, clip_id: str, window: int, entity: int, variant: int) -> tuple[Tensor, bool]:
        """Return a reference of one of the record's entities as latents (C, h, w) float16, and whether it shows the
        subject within the window itself."""
        shard, clip = self._clips[clip_id]
        place = clip["entities"][window].index(entity)
        reference = self._read(shard, references_name(clip["row"], window), (variant, place))
        return reference, bool(clip["inside"][window][variant][place])

    def embedding(self, text: str) -> Tensor:
        """Return the embedding (tokens, text_dim) float32 of a text's own tokens.

        Raises ValueError for a text that no clip has.
        """
        if text not in self._texts:
            raise ValueError(f'{self._folder} has no embedding of "{text}"; only captions, timed captions and words of '
                             "its clips, and the empty text, are there")
        shard, number = self._texts[text]
        return self._read(shard, text_name(number)).float()

    def _read(self, shard: int, name: str, place: tuple[int, ...] | None = None) -> Tensor:
        with safe_open(shard_path(self._folder, shard), "pt") as file:
            tensor: Tensor = file.get_tensor(name) if place is None else file.get_slice(name)[place]
        return tensor


def latents_name(row: int, window: int) -> str:
    """Return the name of a window's latents in its shard: (C, T, h, w)."""
    return f"{row}.{window}.latents"


def references_name(row: int, window: int) -> str:
    """Return the name of a window's references in its shard: (variants, subjects, C, h, w)."""
    return f"{row}.{window}.references"


def text_name(number: int) -> str:
    """Return the name of a text's embedding in its shard: (tokens, text_dim)."""
    return f"text.{number}"


def read_index(path: Path) -> dict[str, Any]:
    """Return a shard's index: its clips with their windows, its texts, and the clips that could not be read."""
    try:
        with safe_open(path, "pt") as file:
            index: dict[str, Any] = json.loads(file.metadata()[INDEX])
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no shard of a cache ({error}); remove it and run alchemint precompute "
                         "again") from error
    return index


def _description(folder: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no cache ({error}); make one with alchemint precompute") from error
    return made
