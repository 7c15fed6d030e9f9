"""The systems that `alchemint s2vtime run` puts to the test, by name; weights are loaded for the first video."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from alchemint.cli.models import Device, find_model, load_pipeline, pick_device, pick_dtype

if TYPE_CHECKING:
    from alchemint.pipeline import AlchemintPipeline
    from alchemint.s2vtime.suite import Entry
    from alchemint.s2vtime.systems import Abilities, System, Video
    from alchemint.toyworld import Clip

OURS, TRUTH, DECODED_TRUTH = "alchemint", "truth", "truth-vae"
SYSTEM_HELP = ("alchemint (with --model), truth (the toyworld clips that a shipped suite was taken from), truth-vae "
               "(the same, encoded and decoded by the model's VAE), wan or vace (through diffusers)")


def find_system(name: str, model: str | None, steps: int | None, device: Device) -> "System":
    """Return a system by its name, unloaded. `model`: weights, the system's own when None.

    Raises ValueError when there is no such system or model.
    """
    from alchemint.s2vtime.spread import DeferredSystem
    from alchemint.s2vtime.systems import Abilities

    chosen = pick_device(device)
    if name in (OURS, DECODED_TRUTH):
        weights = model or "toy"
        source = find_model(weights)  # a wrong name is told at once
        if name == DECODED_TRUTH:
            settings: dict[str, Any] = {"model": weights, "edition": source.edition}
            return DeferredSystem(name, Abilities(), settings, partial(_truth, weights, chosen))
        from alchemint.diffusion.guidance import Guidance
        from alchemint.model_folder import read_guidance

        dtype, num_steps = pick_dtype("auto", chosen), steps or 40
        settings = {"model": weights, "edition": source.edition, "steps": num_steps, "dtype": dtype,
                    "guidance": asdict(Guidance(**read_guidance(source.config_folder)))}
        return DeferredSystem(name, Abilities(), settings, partial(_ours, weights, num_steps, chosen, dtype))
    if name == TRUTH:
        return DeferredSystem(name, Abilities(), {}, _truth)
    from alchemint.s2vtime import peers

    if name in peers.PEERS:
        _, system_class, default = peers.PEERS[name]
        form = peers.Format(**({} if steps is None else {"num_inference_steps": steps}))
        dtype = pick_dtype("auto", chosen)
        abilities: Abilities = system_class.abilities  # type: ignore[attr-defined]
        return DeferredSystem(name, abilities, {"weights": model or default, "dtype": dtype, **asdict(form)},
                              partial(_peer, name, model, chosen, dtype, asdict(form)))
    raise ValueError(f'system "{name}" is unknown; use {OURS}, {TRUTH}, {DECODED_TRUTH}, {", ".join(peers.PEERS)}, '
                     "or --command for any program")


@dataclass
class PipelineSystem:
    """This package's pipeline."""

    pipeline: "AlchemintPipeline"
    num_inference_steps: int
    abilities: "Abilities"
    settings: dict[str, Any]
    name: str = OURS

    def make(self, entry: "Entry") -> "Video":
        """Sample the storyboard with its own seed, 0 where it has none."""
        import torch

        from alchemint import media

        board = entry.storyboard.resolve(self.pipeline.defaults)
        generator = torch.Generator("cpu").manual_seed(board.seed or 0)
        video = self.pipeline(board, num_inference_steps=self.num_inference_steps, generator=generator)[0][0]
        assert board.fps is not None
        return media.as_uint8(video), board.fps


@dataclass
class TruthSystem:
    """The toyworld clips that a suite was taken from, as they are or through a model's VAE."""

    pipeline: "AlchemintPipeline | None"
    abilities: "Abilities"
    settings: dict[str, Any]
    name: str = TRUTH

    def make(self, entry: "Entry") -> "Video":
        """Render the clip that the entry's `source` names. Raises ValueError when it names none."""
        clip = clip_of(entry)
        if self.pipeline is None:
            return clip.frames, clip.fps
        import torch

        from alchemint.model.latents import as_pixels, as_uint8, decode_video, encode_video

        vae = self.pipeline.vae
        pixels = as_pixels(torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None]).to(vae.device)
        with torch.inference_mode():
            decoded = as_uint8(decode_video(vae, encode_video(vae, pixels)))
        return decoded[0].permute(1, 2, 3, 0).cpu().numpy(), clip.fps


def clip_of(entry: "Entry") -> "Clip":
    """Return the toyworld clip that an entry was taken from. Raises ValueError when it was taken from none."""
    from alchemint.toyworld import WorldConfig, render_clip

    source = entry.source
    if source.get("world") != "toyworld":
        raise ValueError(f"{entry.id} was not taken from a toyworld clip, so there is no ground truth of it; the "
                         "suites toy-… have it")
    return render_clip(source["split"], source["index"], WorldConfig(), num_subjects=source["num_subjects"])


def _ours(model: str, steps: int, device: str, dtype: str) -> "System":
    from alchemint.s2vtime.systems import Abilities

    return PipelineSystem(load_pipeline(find_model(model), device, dtype), steps, Abilities(), {})


def _truth(model: str | None = None, device: str = "cpu") -> "System":
    from alchemint.s2vtime.systems import Abilities

    pipeline = None if model is None else load_pipeline(find_model(model), device, "float32")
    return TruthSystem(pipeline, Abilities(), {})


def _peer(name: str, model: str | None, device: str, dtype: str, form: dict[str, Any]) -> "System":
    import torch

    from alchemint.s2vtime.peers import load_peer

    return load_peer(name, model, device, getattr(torch, dtype), **form)
