"""How much of a subject's latents can be copied from its reference's? A bound on what looking the place up can bring.

    python benchmarks/copying.py [--vae src/alchemint/assets/toy/vae] [--clips 64]

For toyworld clips of one subject, the reference's latents are read, bilinearly, where the exact pose of each frame says
that a latent's spot lies. Printed is what is left unexplained of the variance of the subject's latents, over all
channels and for each: 1 means that nothing can be copied, 0 that copies are perfect. References are lit and turned
otherwise than the clip, so 0 can't be reached.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from alchemint.cli.models import TOY_FOLDER
from alchemint.data.encoded_clips import encode_clips
from alchemint.toyworld import WorldConfig, render_clip
from alchemint.training.encoders import LatentEncoder

CANVAS_SHARE = 0.55
FIRST_CLIP = 1000
CLIPS_AT_ONCE = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=TOY_FOLDER / "vae")
    parser.add_argument("--clips", type=int, default=64)
    arguments = parser.parse_args()
    copied, true = copies(LatentEncoder(arguments.vae, "cpu", bfloat16=False), arguments.clips)
    left = (copied - true).square().mean(0)
    print(f"{len(true)} latents of {arguments.clips} subjects; unexplained {left.mean() / true.var(0).mean():.2f}, "
          f"by channel {' '.join(f'{share:.2f}' for share in (left / true.var(0)).tolist())}")


def copies(encoder: LatentEncoder, num_clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents read from references, and those of the clips at the same spots, (latents, channels) each."""
    copied, true = [], []
    last = FIRST_CLIP + num_clips
    for first in range(FIRST_CLIP, last, CLIPS_AT_ONCE):
        clips = [render_clip("train", index, WorldConfig(), num_subjects=1)
                 for index in range(first, min(first + CLIPS_AT_ONCE, last))]
        batch = encode_clips(clips, encoder, with_events=False, canvas_share=CANVAS_SHARE, with_places=True)
        assert batch.places is not None
        num_frames, height, width = batch.latents.shape[2:]
        places = batch.places[:, 0]
        grid = torch.stack([places[..., 1] / width, places[..., 0] / height], -1) * 2 - 1
        read = F.grid_sample(batch.reference_latents[:, 0], grid.nan_to_num(0.0).flatten(1, 2), align_corners=False)
        known = ~places[..., 0].isnan()
        copied.append(read.unflatten(2, (num_frames, height)).movedim(1, -1)[known])
        true.append(batch.latents.movedim(1, -1)[known])
    return torch.cat(copied), torch.cat(true)


if __name__ == "__main__":
    main()
