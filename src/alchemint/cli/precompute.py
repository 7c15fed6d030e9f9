"""`alchemint precompute`: encode a folder's clips and texts once, for many training runs."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alchemint.cli.models import TOY, TOY_FOLDER, DeviceOption

if TYPE_CHECKING:
    import torch

    from alchemint.data.precompute import Encoders, LoadedClip


def precompute(
    clips: Annotated[Path, typer.Option(help="folder with records.jsonl, videos and references")],
    out: Annotated[Path, typer.Option(help="folder for the cache; an unfinished one is gone on with")],
    sizes: Annotated[list[str], typer.Option("--size", help="WIDTHxHEIGHT; more than one may be given, and a clip goes "
                                                            "to the nearest in aspect ratio")],
    num_frames: Annotated[list[int], typer.Option(help="frames of a window, 4k+1; of more than one, a clip goes to the "
                                                       "longest that fits it")],
    fps: Annotated[float, typer.Option(help="frames per second of the windows")],
    model: Annotated[str, typer.Option(help="toy, or a pipeline folder with vae, text_encoder and tokenizer")] = TOY,
    num_windows: Annotated[int, typer.Option(help="windows of each clip")] = 4,
    num_variants: Annotated[int, typer.Option(help="references of each subject of a window; 0: cut at training")] = 0,
    max_subjects: Annotated[int, typer.Option(help="subjects of a sample, at most")] = 4,
    min_area: Annotated[float, typer.Option(help="share of the picture above which a subject counts as seen")] = 0.002,
    canvas_share: Annotated[float, typer.Option(help="share of its canvas that a reference fills")] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=1, help="longer texts are cut")] = 512,
    clips_per_shard: Annotated[int, typer.Option(help="clips in a file of the cache")] = 32,
    seed: Annotated[int, typer.Option(help="of the references' augmentation")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="processes that read videos")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Encode windows of clips and all their texts into a cache. The same command again goes on where it broke off.

    Several processes share the work: torchrun --nproc-per-node 2 -m alchemint precompute …
    """
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    from alchemint.cli.progress import progress
    from alchemint.data import precompute as writing
    from alchemint.data.clip_plans import SampleOptions
    from alchemint.data.latent_cache import CacheOptions
    from alchemint.data.record_clips import ClipFolder

    options = SampleOptions(tuple(_size(size) for size in sizes), tuple(num_frames), fps, max_subjects, min_area,
                            canvas_share)
    cache = CacheOptions(num_windows, num_variants, clips_per_shard, seed)
    folder = ClipFolder(clips, options)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def shown(items: "Iterable[LoadedClip]", total: int) -> "Iterable[LoadedClip]":
        return progress(items, total, "encoding clips") if rank == 0 else items

    done = writing.precompute(out, folder, _encoders(TOY_FOLDER if model == TOY else Path(model), device, max_tokens),
                              cache, (rank, world), workers, shown)
    if rank == 0:
        for reason, count in folder.left_out.items():
            typer.echo(f"left out {count} clips: each {reason}")
    for clip_id, reason in done.broken.items():
        typer.echo(f"left out {clip_id}: {reason}")
    before = f"; {done.num_shards_before} shards were there already" if done.num_shards_before else ""
    typer.echo(f"{done.num_clips} clips encoded into {out}{before}")


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not separator or not width.isdigit() or not height.isdigit():
        raise ValueError(f'size "{text}": write it as WIDTHxHEIGHT, as in 832x480')
    return int(width), int(height)


def _encoders(model: Path, device: str, max_tokens: int) -> "Encoders":
    """Return the VAE and the text encoder of a pipeline folder as what the cache is made by."""
    import torch
    from diffusers import AutoencoderKLWan
    from transformers import AutoTokenizer, UMT5EncoderModel

    from alchemint.data.latent_cache import encoder_identity
    from alchemint.data.precompute import Encoders
    from alchemint.model import text
    from alchemint.model.latents import as_pixels, encode_video

    identity = encoder_identity(model, max_tokens)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    # The VAE stays in float32, as diffusers advises for Wan's.
    vae = AutoencoderKLWan.from_pretrained(model / "vae").eval().to(device)
    text_encoder = UMT5EncoderModel.from_pretrained(model / "text_encoder", dtype=dtype).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")

    @torch.no_grad()
    def encode_videos(videos: "torch.Tensor") -> "torch.Tensor":
        return encode_video(vae, as_pixels(videos.to(device)))

    @torch.no_grad()
    def embed_texts(texts: list[str]) -> "list[torch.Tensor]":
        embeddings = []
        for given in texts:
            ids, mask = text.tokenize(tokenizer, [given], max_tokens, device)
            # Without its padding, a short text costs little.
            ids, mask = ids[:, :int(mask.sum())], mask[:, :int(mask.sum())]
            embeddings.append(text.embed(text_encoder, ids, mask)[0].cpu())
        return embeddings

    return Encoders(encode_videos, embed_texts, identity)
