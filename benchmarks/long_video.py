"""Seams of long videos: how well a window goes on from the one before, by what is handed on and how much is shared.

    python benchmarks/long_video.py [--model toy] [--seeds 8] [--steps 20]      # some five minutes on one core

The first two windows of a storyboard, with several seeds and its first subject alone, on screen all the time, so that
nothing comes or goes at the seam. Handed on are the shared frames encoded anew, with the noise that they came from, as
`long_video` does, or with new noise, or the first window's last latents as they are. Figures are mean absolute
differences of pixels, 0..255: between the two windows' pictures of the shared frames; from the last shared frame,
cross-faded, to the first that is the second window's alone; and from a frame to the next at the other borders of
latents.

Before that, the VAE alone: the last frames of never-seen clips, decoded, against what a window sees that begins with
them, for the model's VAE and the folders of --vaes. A VAE that was trained on single frames takes either.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from alchemint import timeline
from alchemint.cli.models import find_model, load_pipeline
from alchemint.long_video import _latents_of, _noise_of, crossfade, windows_of
from alchemint.model.latents import as_pixels, decode_video, encode_video
from alchemint.pipeline import AlchemintPipeline
from alchemint.storyboard import Storyboard, load_storyboard
from alchemint.toyworld import WorldConfig, render_clip

BOARD = Path(__file__).resolve().parent.parent / "examples" / "long.yaml"


def main() -> None:
    """Make the windows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--storyboard", type=Path, default=BOARD)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--vaes", nargs="*", default=[])
    parser.add_argument("--latents", type=int, nargs="+", default=[2, 3])
    arguments = parser.parse_args()
    pipeline = load_pipeline(find_model(arguments.model), "cpu", "float32")
    print("| VAE | latents shared | encoded anew | its latents |")
    print("|---|---:|---:|---:|")
    for name in (arguments.model, *arguments.vaes):
        vae = pipeline.vae if name == arguments.model else AutoencoderKLWan.from_pretrained(name).eval()
        for count in arguments.latents:
            print(f"| {name} | {count} | {' | '.join(f'{value:.2f}' for value in handed_on(vae, count))} |", flush=True)
    print()
    board = load_storyboard(arguments.storyboard, pipeline.defaults)
    assert board.num_frames
    assert board.fps
    whole = (0.0, timeline.duration_s(board.num_frames, board.fps))
    always = board.subjects[0].model_copy(update={"appears": (whole,)})
    board = board.model_copy(update={"subjects": (always,), "events": ()})
    rows: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for seed in range(arguments.seeds):
        for name, figures in measured(pipeline, board.model_copy(update={"seed": seed}), arguments.steps,
                                      arguments.latents):
            rows.setdefault(name, []).append(figures)
    print("| latents shared | handed on | shared frames differ by | step at the seam | steps elsewhere |")
    print("|---:|---|---:|---:|---:|")
    for (count, way), figures in rows.items():
        print(f"| {count} | {way} | {' | '.join(f'{value:.2f}' for value in np.mean(figures, axis=0))} |")


@torch.no_grad()
def handed_on(vae: AutoencoderKLWan, count: int, num_clips: int = 6) -> tuple[float, float]:
    """Return by how much the last frames of clips change, 0..255, when their last `count` latents are encoded anew from
    the frames, and when they are taken as they are."""
    clips = np.stack([render_clip("heldout", index, WorldConfig(), 2).frames for index in range(num_clips)])
    latents = encode_video(vae, as_pixels(torch.from_numpy(clips).permute(0, 4, 1, 2, 3)))
    frames = decode_video(vae, latents)[:, :, -(timeline.frames_of_latent(count - 1)[1] + 1):]
    anew, taken = (float((decode_video(vae, handed) - frames).abs().mean()) * 127.5
                   for handed in (encode_video(vae, frames), latents[:, :, -count:]))
    return anew, taken


def measured(pipeline: AlchemintPipeline, board: Storyboard, steps: int,
             counts: list[int]) -> Iterator[tuple[tuple[int, str], tuple[float, ...]]]:
    """Yield the figures of one seed for each number of shared latents and each way of handing on."""
    assert board.fps
    num_frames = pipeline.defaults.num_frames
    before = None
    for count in counts:
        shared = timeline.frames_of_latent(count - 1)[1] + 1
        windows = windows_of(board, num_frames, timeline.duration_s(shared, board.fps))
        if before is None:
            noise = _noise_of(pipeline, windows[0], None, None)
            before = made(pipeline, windows[0].storyboard, steps, noise, None)
        frames, latents = before
        anew, kept = _latents_of(pipeline, frames[-shared:]), _noise_of(pipeline, windows[1], noise, None)
        for way, known, second in (("encoded anew", anew, kept), ("its latents", latents[:, :, -count:], kept),
                                   ("encoded anew, new noise", anew, _noise_of(pipeline, windows[1], None, None))):
            after, _ = made(pipeline, windows[1].storyboard, steps, second, known)
            faded = crossfade(frames[-shared:], after[:shared])
            seam = changes(np.stack([faded[-1], after[shared]]))
            elsewhere = np.concatenate([changes(frames)[::4], changes(after[shared + 3:])[::4]])
            yield (count, way), (255 * float(np.abs(frames[-shared:] - after[:shared]).mean()), float(seam[0]),
                                 float(elsewhere.mean()))


def made(pipeline: AlchemintPipeline, board: Storyboard, steps: int, noise: torch.Tensor,
         known: torch.Tensor | None) -> tuple[np.ndarray, torch.Tensor]:
    """Return a window's frames (frames, height, width, 3) 0..1 and its latents."""
    latents = pipeline(board, num_inference_steps=steps, latents=noise, known_latents=known,
                       output_type="latent").frames
    with torch.no_grad():
        video = decode_video(pipeline.vae, latents)[0]
    return (video.permute(1, 2, 3, 0).clamp(-1, 1).numpy() + 1) / 2, latents


def changes(frames: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference from each frame to the next, 0..255."""
    return 255 * np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))


if __name__ == "__main__":
    main()
