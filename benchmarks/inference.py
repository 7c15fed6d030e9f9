"""How long a step of sampling takes, in ratios: each pair is measured in turn, in one run, and so are its shares.

    python benchmarks/inference.py                                   # small geometry, some minutes on two idle cores
    python benchmarks/inference.py --geometry wan2.1-1.3b            # one GPU: 832 x 480, 81 frames, bfloat16
    python benchmarks/inference.py --geometry wan2.1-1.3b --layers 1 --rounds 1 --what evaluations   # on a CPU

forward     the AlcheMinT transformer against diffusers' WanTransformer3DModel on as many tokens: without references on
            the same video; with two on a video that is two latent frames longer (without word tags: as many tokens)
sampling    guided sampling with two references against plain Wan's two passes a step, all steps of a video: chained
            guidance as it is (three evaluations), with references that are blind to the video and encoded once, and the
            same with guidance by images in a part of the steps alone

evaluations the same from single evaluations, where all steps would take too long: their times, and what they sum up to

Weights are random; a ratio depends on sizes alone. A row's ratio is the median of the rounds, each of which runs all
rows of its table one after the other. The last column of `forward` is the share of the rate at which this machine
multiplies matrices.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from alchemint.denoising import Conditions, Evaluating, Expert, GuidedVelocity, steps
from alchemint.diffusion.guidance import BOTH, IMAGES, NEITHER, TEXT, Branch, Guidance
from alchemint.model.conditions import References
from alchemint.model.flops import forward_flops
from alchemint.model.transformer import AlchemintTransformer3DModel
from alchemint.training.precision import matmul_rate

Tensor = torch.Tensor
Sizes = dict[str, Any]
LatentShape = tuple[int, int, int]

NUM_REFERENCES, NUM_PROMPT_TOKENS, WAN_SCALE = 2, 512, 5.0

GEOMETRIES: dict[str, tuple[Sizes, LatentShape]] = {
    "small": ({"num_attention_heads": 4, "ffn_dim": 2304, "num_layers": 4}, (7, 20, 36)),
    "wan2.1-1.3b": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, (21, 60, 104)),
    "wan2.1-14b": ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, (21, 60, 104)),
}
"""The transformer's sizes, and the latents' frames, height and width."""

GUIDANCES = {
    "three evaluations": Guidance("chained", 3.0, 2.0),
    "by images in the first 30 % of the steps": Guidance("chained", 3.0, 2.0, image_interval=(0.0, 0.3)),
    "both by one scale (two evaluations)": Guidance("chained", 2.5, 2.5),
    "by the text in the first 30 % of the steps": Guidance("chained", 3.0, 2.0, text_interval=(0.0, 0.3)),
}


@dataclass(frozen=True)
class Bench:
    """What all rows have in common."""

    sizes: Sizes
    shape: LatentShape
    device: torch.device
    dtype: torch.dtype
    rounds: int
    num_steps: int

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """Return numbers that are the same for all rows."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

    def wan(self) -> WanTransformer3DModel:
        """Return diffusers' own transformer."""
        return self._built(partial(WanTransformer3DModel, **self.sizes))

    def ours(self, **options: Any) -> AlchemintTransformer3DModel:
        """Return our transformer, without the event branch."""
        return self._built(partial(AlchemintTransformer3DModel, **self.sizes, event_encoding=None, **options))

    def _built(self, new: Callable[[], Any]) -> Any:
        torch.manual_seed(0)
        with torch.device(self.device):
            model = new().eval()
        if self.dtype != torch.float32:
            kept = tuple(model._keep_in_fp32_modules)
            for name, parameter in model.named_parameters():
                if not any(part in name for part in kept):
                    parameter.data = parameter.data.to(self.dtype)
        return model

    def references(self, num_word_tokens: int) -> References:
        """Return two references, each in half of the video."""
        num_latents, height, width = self.shape
        middle = num_latents / 2
        return References(
            self.random(1, NUM_REFERENCES, 16, height, width, seed=1),
            torch.tensor([[[0.0, middle], [middle, num_latents - 1.0]]], device=self.device),
            torch.arange(NUM_REFERENCES, device=self.device)[None],
            self.random(1, NUM_REFERENCES, num_word_tokens, 4096, seed=2),
            torch.ones(1, NUM_REFERENCES, num_word_tokens, dtype=torch.bool, device=self.device))

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return how long the work takes."""
        self._wait()
        begun = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@torch.no_grad()
def main() -> None:
    """Measure and print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--layers", type=int, help="instead of the geometry's own number")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of a video")
    options = parser.parse_args()
    sizes, shape = GEOMETRIES[options.geometry]
    if options.layers is not None:
        sizes = {**sizes, "num_layers": options.layers}
    on_gpu = torch.cuda.is_available()
    bench = Bench(sizes, shape, torch.device("cuda" if on_gpu else "cpu"),
                  torch.bfloat16 if on_gpu else torch.float32, options.rounds, options.steps)
    machine = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{options.geometry}, {sizes['num_layers']} layers, latents {' x '.join(map(str, shape))}, {bench.dtype}, "
          f"{machine}, torch {torch.__version__}\n")
    for name in options.what:
        print(TABLES[name](bench))


def forward_table(bench: Bench) -> str:
    """Measure single forward passes."""
    num_latents, height, width = bench.shape
    prompt, timestep = bench.random(1, NUM_PROMPT_TOKENS, 4096, seed=3), torch.tensor([500.0], device=bench.device)
    video, longer = (bench.random(1, 16, frames, height, width) for frames in (
        num_latents, num_latents + NUM_REFERENCES))
    wan = bench.wan()
    ours = AlchemintTransformer3DModel.from_wan(wan, event_encoding=None, num_word_tokens=0)
    references = bench.references(0)
    config = dict(ours.config)
    rows = {
        "diffusers' Wan": partial(wan, video, timestep, prompt),
        "alchemint, no reference": partial(ours, video, timestep, prompt),
        "diffusers' Wan, two latent frames more": partial(wan, longer, timestep, prompt),
        "alchemint, two references": partial(ours, video, timestep, prompt, references),
    }
    against = dict(zip(rows, [*[next(iter(rows))] * 2, *["diffusers' Wan, two latent frames more"] * 2], strict=True))
    flops = [forward_flops(config, shape, 0, NUM_PROMPT_TOKENS) for shape in (
        bench.shape, bench.shape, (num_latents + NUM_REFERENCES, height, width))]
    flops.append(forward_flops(config, bench.shape, NUM_REFERENCES, NUM_PROMPT_TOKENS))
    rate = matmul_rate(bench.device, bench.dtype)
    seconds = _rounds(bench, rows)
    return _table(("forward", "s", "ratio", "share of matmul rate"), [
        (name, f"{statistics.median(seconds[name]):.4g}", _ratio(seconds[name], seconds[against[name]]),
         f"{count / statistics.median(seconds[name]) / rate:.0%}")
        for (name, _), count in zip(rows.items(), flops, strict=True)])


def sampling_table(bench: Bench) -> str:
    """Measure all steps of a video."""
    num_latents, height, width = bench.shape
    noise = bench.random(1, 16, num_latents, height, width).float()
    full, one_way = bench.ours(), bench.ours(reference_attention="one_way")
    plain = Guidance("chained", 1.0, WAN_SCALE)
    rows = {"plain Wan, two passes a step": partial(sample, bench, full, plain, noise, None)}
    references = bench.references(full.config.num_word_tokens)
    rows["references see the video, three evaluations"] = partial(
        sample, bench, full, GUIDANCES["three evaluations"], noise, references)
    rows |= {f"blind to it, encoded once, {name}": partial(sample, bench, one_way, guidance, noise, references)
             for name, guidance in GUIDANCES.items()}
    seconds = _rounds(bench, rows)
    first = seconds[next(iter(rows))]
    return _table((f"{bench.num_steps} steps", "s a step", "ratio"), [
        (name, f"{statistics.median(times) / bench.num_steps:.4g}", _ratio(times, first))
        for name, times in seconds.items()])


def evaluations_table(bench: Bench) -> str:
    """Measure single evaluations, and sum up what a video takes of them."""
    num_latents, height, width = bench.shape
    video, timestep = bench.random(1, 16, num_latents, height, width), torch.tensor([500.0], device=bench.device)
    prompt = bench.random(1, NUM_PROMPT_TOKENS, 4096, seed=3)
    full, one_way = bench.ours(), bench.ours(reference_attention="one_way")
    references = bench.references(full.config.num_word_tokens)
    plain, seeing, blind, encoding = "plain Wan", "references see the video", "blind to it, encoded", "their encoding"
    encode = partial(one_way.encode_references, video, prompt, references)
    seconds = _rounds(bench, {
        plain: partial(full, video, timestep, prompt), seeing: partial(full, video, timestep, prompt, references),
        blind: partial(one_way, video, timestep, prompt, encode()), encoding: encode})
    table = _table(("evaluation", "s", "ratio"), [
        (name, f"{statistics.median(times):.4g}", _ratio(times, seconds[plain])) for name, times in seconds.items()])
    ratio = {name: statistics.median(one / other for one, other in zip(times, seconds[plain], strict=True))
             for name, times in seconds.items()}
    fractions = [number / bench.num_steps for number in range(bench.num_steps)]
    rows = [(f"{seeing}, three evaluations", f"{3 * ratio[seeing] / 2:.3f}")]
    for name, guidance in GUIDANCES.items():
        branches = [guidance.evaluations(fraction) for fraction in fractions]
        different = {branch for step in branches for branch in step}
        total = sum(map(len, branches)) * ratio[blind] + len(different) * ratio[encoding]
        rows.append((f"blind to it, encoded once, {name}", f"{total / (2 * bench.num_steps):.3f}"))
    return table + "\n" + _table((f"{bench.num_steps} steps, from these", "ratio to plain Wan's two passes"), rows)


def sample(bench: Bench, transformer: AlchemintTransformer3DModel, guidance: Guidance, noise: Tensor,
           references: References | None) -> None:
    """Make a video's latents, one evaluation after the other, by the pipeline's own loop."""
    prompts = {text: bench.random(1, NUM_PROMPT_TOKENS, 4096, seed=3 + text) for text in (False, True)}
    nothing = None if references is None else references._replace(latents=torch.zeros_like(references.latents))
    conditions: dict[Branch, Conditions] = {
        (images, text): Conditions(prompts[text], references if images else nothing, None)
        for images, text in (NEITHER, IMAGES, TEXT, BOTH)}
    velocity = GuidedVelocity([Expert(transformer, guidance, 0.0)], conditions, Evaluating(batched=False))
    for _ in steps(FlowMatchEulerDiscreteScheduler(shift=5.66), velocity, noise, bench.num_steps):
        pass


TABLES = {"forward": forward_table, "sampling": sampling_table, "evaluations": evaluations_table}


def _rounds(bench: Bench, rows: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return each row's seconds in each round; a first run of each counts in none, where there are several."""
    if bench.rounds > 1:
        for work in rows.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(bench.rounds):
        for name, work in rows.items():
            seconds[name].append(bench.seconds(work))
    return seconds


def _ratio(times: list[float], others: list[float]) -> str:
    ratios = [one / other for one, other in zip(times, others, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
