"""What memory a video takes by model and options, and which GPU has it: two Markdown tables, as the plan computes it.

    python benchmarks/memory.py                              # nothing is loaded
    python benchmarks/memory.py --measure wan2.1-1.3b FOLDER # on a GPU, with a model's weights or random ones

Two references, chained guidance (three evaluations a step), bfloat16. A GPU is taken to have what it is sold with, less
a tenth and CUDA's own. --measure makes two steps of the same video with each option and prints the most that was
allocated beside what was expected; `python scripts/make_wan.py wan2.1-1.3b FOLDER` writes such a model.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alchemint.cli.models import find_model, load_pipeline
from alchemint.memory import MemoryOptions, fit
from alchemint.memory_estimate import CUDA_CONTEXT, Configs, Work, expected_peak
from alchemint.memory_estimate.configs import UMT5_XXL, WAN_21_VAE, WAN_22_VAE, WAN_TRANSFORMER, Config
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.storyboard import Storyboard, Subject

GIB = 2**30
GPUS = (12, 16, 24, 32, 48, 80, 141)


@dataclass(frozen=True)
class Case:
    """A row: a model's configs and the video that it makes."""

    configs: Configs
    width: int
    height: int
    num_frames: int

    def peak(self, options: MemoryOptions, batched: bool) -> Any:
        """Return what is expected."""
        work = Work(self.width, self.height, self.num_frames, 2, 1, 0, 3, batched)
        return expected_peak(self.configs, work, options)


def wan(num_heads: int, num_layers: int, ffn_dim: int, channels: int = 16, experts: int = 1) -> Configs:
    """Return the configs of a Wan of these sizes with AlcheMinT's modules."""
    with torch.device("meta"):
        ours = AlchemintTransformer3DModel(num_layers=0).config
    transformer: Config = {**WAN_TRANSFORMER, **ours, "num_attention_heads": num_heads, "num_layers": num_layers,
                           "ffn_dim": ffn_dim, "in_channels": channels, "out_channels": channels}
    return Configs((transformer,) * experts, WAN_22_VAE if channels == 48 else WAN_21_VAE, UMT5_XXL,
                   expand_timesteps=channels == 48)


CASES = {
    "wan2.1-1.3b": Case(wan(12, 30, 8960), 832, 480, 81),
    "wan2.1-14b": Case(wan(40, 40, 13824), 832, 480, 81),
    "wan2.1-14b, 720p": Case(wan(40, 40, 13824), 1280, 720, 81),
    "wan2.2-a14b": Case(wan(40, 40, 13824, experts=2), 832, 480, 81),
    "wan2.2-5b": Case(wan(24, 30, 14336, 48), 1280, 704, 121),
}
OPTIONS = {"high": MemoryOptions("high"), "balanced": MemoryOptions("balanced"),
           "balanced, int8": MemoryOptions("balanced", "int8"), "low": MemoryOptions("low")}
"""From the fastest to the slowest."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("GEOMETRY", "FOLDER"))
    options = parser.parse_args()
    if options.measure:
        measure(CASES[options.measure[0]], options.measure[1])
        return
    print(f"| GiB, one batch / one by one | {' | '.join(OPTIONS)} | host |\n|---|" + "---|" * (len(OPTIONS) + 1))
    for name, case in CASES.items():
        cells = [" / ".join(f"{case.peak(option, batched).device_bytes / GIB:.1f}" for batched in (True, False))
                 for option in OPTIONS.values()]
        host = case.peak(OPTIONS["balanced"], False).host_bytes / GIB
        print(f"| {name}, {case.width} x {case.height} x {case.num_frames} | {' | '.join(cells)} | {host:.1f} |")
    print(f"\n| | {' | '.join(f'{size} GB' for size in GPUS)} |\n|---|" + "---|" * len(GPUS))
    for name, case in CASES.items():
        print(f"| {name} | {' | '.join(fastest(case, size) for size in GPUS)} |")


def fastest(case: Case, gpu: int) -> str:
    """Return the first options that fit into a GPU of so many GB."""
    room = gpu * 10**9 * 0.9 - CUDA_CONTEXT
    for name, option in OPTIONS.items():
        for batched in (True, False):
            if case.peak(option, batched).device_bytes <= room:
                return name if batched else f"{name}, sequential"
    return "–"


def measure(case: Case, folder: str) -> None:
    """Make two steps with each option on this GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("--measure needs a GPU")
    references = [Subject(name=name, word=name, images=[Path("examples") / f"{name}.png"], appears=[(0.5, 2.0)])
                  for name in ("fox", "balloon")]
    board = Storyboard(prompt="a fox and a balloon", seed=0, width=case.width, height=case.height,
                       num_frames=case.num_frames, subjects=references)
    print("| | expected, GiB | measured, GiB | ratio |\n|---|---:|---:|---:|")
    for name, option in OPTIONS.items():
        for batched in (True, False):
            pipeline = load_pipeline(find_model(folder), "cuda", "bfloat16", memory=option)
            fit(pipeline, option, "cuda")
            torch.cuda.reset_peak_memory_stats()
            pipeline(board, num_inference_steps=2, batch_branches=batched)
            measured, expected = torch.cuda.max_memory_allocated(), case.peak(option, batched).device_bytes
            print(f"| {name}{'' if batched else ', sequential'} | {expected / GIB:.2f} | {measured / GIB:.2f} | "
                  f"{expected / measured:.2f} |")
            del pipeline
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
