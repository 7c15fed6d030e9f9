"""What a studio serves, where it keeps its files, and how much it takes from a browser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alchemint.storyboard import Defaults
from alchemint.studio.making import Make

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """The most that is taken; whatever is more is refused with a line that names the limit."""

    max_duration_s: float = 30.0
    area_factor: float = 4.0
    """Of the model's own width x height."""
    intervals: int = 32
    """Of one subject; `pictures` likewise."""
    pictures: int = 8
    references: int = 64
    """Pictures times intervals, of all subjects together: each is a group of tokens in the model."""
    text_length: int = 4000
    name_length: int = 200
    steps: int = 100
    variations: int = 8
    waiting: int = 32
    streams: int = 64
    document_bytes: int = MIB
    picture_bytes: int = 32 * MIB
    picture_side: int = 4096
    """In pixels, of the longer side; larger pictures are reduced."""
    stored_bytes: int = 2048 * MIB
    bundle_bytes: int = 128 * MIB
    unpacked_bytes: int = 256 * MIB
    bundle_files: int = 512
    compression: int = 200
    """How many times larger than its compressed bytes a file of a zip may be."""
    free_bytes: int = 512 * MIB
    """What has to be free on the disk for another job."""
    grace_s: float = 15.0
    """For which a tab may be away before its jobs are stopped."""


@dataclass(frozen=True)
class StudioModel:
    """What page and checks know of the model, all of it read without its weights.

    curves: K(t) by subject name, an array (latents,) for each interval of a resolved storyboard.
    """

    name: str
    defaults: Defaults
    encoding: str
    curves: Callable[[Any], Mapping[str, Any]]
    sees: bool = False
    steps: int = 40


@dataclass(frozen=True)
class Settings:
    """All that `create_app` needs. make: makes the videos; its `prepare`, if it has one, is called in the background.

    host: what the server is bound to. hosts: other names under which browsers reach it, as behind a proxy.
    """

    model: StudioModel
    make: Make
    folder: Path
    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    password: str | None = None
    limits: Limits = field(default_factory=Limits)
