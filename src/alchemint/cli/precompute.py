"""`alchemint precompute`: encode the clips and texts of a training recipe once, for many runs."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from alchemint.data.precompute import Encoders, LoadedClip
    from alchemint.training.encoders import FrozenEncoders
    from alchemint.training.recipe import Run


def precompute(
    recipe: Annotated[Path, typer.Argument(help="a training recipe with data.clips, and data.cache: what is written")],
    overrides: Annotated[list[str] | None, typer.Argument(help="recipe values to change: data.clips=clips …")] = None,
    windows: Annotated[int, typer.Option(min=1, help="windows of each clip, at most")] = 4,
    variants: Annotated[int, typer.Option(min=0, help="references of each subject of a window; 0: cut out and encoded "
                                                      "while training")] = 0,
    clips_per_shard: Annotated[int, typer.Option(min=1, help="clips in a file of the cache")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="processes that read videos")] = 0,
) -> None:
    """Encode windows of a recipe's clips, and all their texts, into its cache. The same command again goes on where it
    broke off; `alchemint train` with the same recipe takes its latents and texts from there.

    Several processes share the work: torchrun --nproc-per-node 2 -m alchemint precompute …
    """
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    from alchemint.cli.progress import progress, without_loading_bars
    from alchemint.data import precompute as writing
    from alchemint.data.latent_cache import CacheOptions
    from alchemint.training.encoders import find_encoders, open_clips
    from alchemint.training.recipe import TransformerRecipe, load_recipe

    without_loading_bars()
    values = load_recipe(recipe, overrides or [])
    if not isinstance(values, TransformerRecipe):
        raise ValueError(f"{recipe}: kind: {values.kind} trains on pixels; give a recipe of kind transformer")
    if values.data is None:
        raise ValueError(f"{recipe}: data is missing: the clips on disk; name them by data.clips, data.sizes, "
                         "data.num_frames and data.fps")
    if values.data.cache is None:
        raise ValueError(f"{recipe}: data.cache is missing: the folder to write; name it by data.cache=FOLDER")
    options = CacheOptions(windows, variants, clips_per_shard)
    found = find_encoders(values)
    clips = open_clips(values, found.vae)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def shown(items: "Iterable[LoadedClip]", total: int) -> "Iterable[LoadedClip]":
        return progress(items, total, "encoding clips") if rank == 0 else items

    done = writing.precompute(values.data.cache, clips, _load(found, values.run), options, (rank, world), workers,
                              shown)
    if rank == 0:
        for reason, count in clips.left_out.items():
            typer.echo(f"left out {count} clips: each {reason}")
    for clip_id, reason in done.broken.items():
        typer.echo(f"left out {clip_id}: {reason}")
    before = f"; {done.num_shards_before} shards were there already" if done.num_shards_before else ""
    typer.echo(f"{done.num_clips} clips encoded into {values.data.cache}{before}")


def _load(found: "FrozenEncoders", run: "Run") -> "Encoders":
    """Return the encoders as training has them, ready to be called."""
    import torch

    from alchemint.data.precompute import Encoders
    from alchemint.model import text
    from alchemint.training.encoders import LatentEncoder
    from alchemint.training.precision import pick_device, uses_bfloat16

    device = pick_device(run)
    identity = found.identity()
    text_encoder, tokenizer = found.load_text_encoder().to(device), found.load_tokenizer()

    @torch.no_grad()
    def embed_texts(texts: list[str]) -> "list[torch.Tensor]":
        embeddings = []
        for given in texts:
            ids, mask = text.tokenize(tokenizer, [given], found.max_prompt_tokens, device)
            # Without its padding, a short text costs little.
            ids, mask = ids[:, :int(mask.sum())], mask[:, :int(mask.sum())]
            embeddings.append(text.embed(text_encoder, ids, mask)[0].cpu())
        return embeddings

    return Encoders(LatentEncoder(found.vae, str(device), uses_bfloat16(device, run)), embed_texts, identity)
