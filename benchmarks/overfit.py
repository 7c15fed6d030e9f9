"""One batch learnt by heart, with and without knowing when: is it the interval encoding that tells the time?

    python benchmarks/overfit.py [--steps 300] [--plot out/overfit.png] [--json out/overfit.json]

The batch is one toyworld clip several times over, each time turned on in time by another number of frames. Caption and
reference are the same throughout; only the interval differs. Trained is at timesteps close to 1, where the noisy
latents tell nothing. So a model that doesn't see intervals can do no better than their mean video, whose loss
(`floor`) follows from the latents alone; one that does can go to zero.

Printed is each encoding's loss, as a share of that floor, at the beginning, on the way and at the end.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alchemint
from alchemint.cli.train import ToyworldSource
from alchemint.data.encoded_clips import ClipBatch, encode_clips
from alchemint.toyworld import Clip
from alchemint.training.draws import Draws
from alchemint.training.encoders import LatentEncoder
from alchemint.training.optimizers import Optimizers
from alchemint.training.ranks import ALONE
from alchemint.training.recipe import Dropout, TransformerRecipe, load_recipe
from alchemint.training.transformer import TransformerObjective

TOY = Path(alchemint.__file__).parent / "assets" / "toy"
RECIPE = Path(__file__).parent.parent / "configs" / "toy.yaml"
ENCODINGS = ("werope", "mid", "contrast", "untimed")
TIMESTEPS = (0.999, 1.0)
NO_DROPOUT = Dropout(image=0.0, text=0.0, both=0.0)


def main() -> None:
    """Train each encoding on the batch; print the table and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clips", type=int, default=6, help="times that the clip is turned on")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(RECIPE, [f"vae={TOY / 'vae'}", f"init_from={TOY}", f"output={folder}",
                                      "run.compile=false"])
        assert isinstance(recipe, TransformerRecipe)
        source = ToyworldSource(split="train", **recipe.world.model_dump(exclude={"split"}))
        encoder = LatentEncoder(TOY / "vae", "cpu", bfloat16=False)
        batch = turned_batch(source, encoder, options.clips)
        print(f"{'encoding':<10} {'first':>6} {'half':>6} {'last':>6}   share of the floor {floor(batch):.4f}")
        for encoding in ENCODINGS:
            losses = curve(recipe.model_copy(update={"model": {**recipe.model, "interval_encoding": encoding}}), source,
                           batch, options.steps)
            shares[encoding] = (np.asarray(losses) / floor(batch)).round(4).tolist()
            row = [shares[encoding][place] for place in (0, len(losses) // 2, -1)]
            print(f"{encoding:<10} " + " ".join(f"{value:6.3f}" for value in row), flush=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(shares))
    if options.plot is not None:
        plot(shares, options.plot)


def turned_batch(source: Callable[[int, int | None], Clip], encoder: Callable[[torch.Tensor], torch.Tensor],
                 num_clips: int) -> ClipBatch:
    """Return the first clip whose one subject is there briefly enough, turned on in time `num_clips` times."""
    for index in range(1000):
        clip = source(index, 1)
        shown = np.flatnonzero(clip.masks[0].any((1, 2)))
        shifts = np.unique(np.linspace(-shown[0], len(clip.frames) - 1 - shown[-1], num_clips).round().astype(int))
        if len(shifts) == num_clips and np.diff(shifts).min() >= 2:
            return encode_clips([_turned(clip, int(shift)) for shift in shifts], encoder, with_events=False)
    raise ValueError(f"no clip can be turned on {num_clips} times; ask for fewer")


def _turned(clip: Clip, shift: int) -> Clip:
    """Return the clip begun `shift` frames later, with what falls off its end before its beginning."""
    subject = clip.subjects[0]
    interval = tuple(time + shift / clip.fps for time in subject.interval)
    return replace(clip, frames=np.roll(clip.frames, shift, axis=0), masks=np.roll(clip.masks, shift, axis=1),
                   subjects=(replace(subject, interval=(max(0.0, interval[0]), interval[1])),))


def floor(batch: ClipBatch) -> float:
    """Return the loss of the best answer that doesn't depend on the interval: the mean of the batch's latents."""
    return (batch.latents - batch.latents.mean(0)).square().mean().item()


def curve(recipe: TransformerRecipe, source: Callable[[int, int | None], Any], batch: ClipBatch,
          num_steps: int) -> list[float]:
    """Return the losses, over the steps, of a model that is trained on the one batch; each the mean of ten steps'."""
    objective = TransformerObjective(recipe.model_copy(update={"dropout": NO_DROPOUT, "subject_weight": 0.0}), source,
                                     source)
    objective._start.timestep_range = TIMESTEPS
    objective.place(torch.device("cpu"), ALONE, bfloat16=False)
    options = recipe.optimizer
    optimizers = Optimizers(objective.parameter_groups(options), objective.matrices(), options)
    losses = []
    for step in range(num_steps):
        loss, _ = objective.loss(batch, Draws(0, step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [parameter for module in objective.modules.values() for parameter in module.parameters()], 1.0)
        optimizers.step(min(1.0, (step + 1) / 20) * min(1.0, 2 * (num_steps - step) / num_steps))
        losses.append(loss.item())
    return [float(np.mean(losses[first:first + 10])) for first in range(0, num_steps, 10)]


def plot(shares: dict[str, list[float]], path: Path) -> None:
    """Draw the curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for encoding, values in shares.items():
        axes.plot(np.arange(len(values)) * 10 + 5, values, label=encoding)
    axes.axhline(1.0, color="grey", linestyle="--", linewidth=1)
    axes.text(0.98, 0.94, "best without knowing when", color="grey", ha="right", va="top",
              transform=axes.get_yaxis_transform())
    axes.set(xlabel="steps on one batch", ylabel="loss / floor", ylim=(0, None),
             title="One clip at several times: only the interval tells them apart")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
