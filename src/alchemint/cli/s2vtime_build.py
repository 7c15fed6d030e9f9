"""`alchemint s2vtime build`: a suite for real models."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alchemint.cli.models import Device, DeviceOption
from alchemint.cli.progress import progress

if TYPE_CHECKING:
    from alchemint.s2vtime.builder import Outcome, Painter, Prompt


def build(
    out: Annotated[Path, typer.Option(help="Folder of the suite; the same command again continues it.",
                                      show_default=False)],
    prompts: Annotated[Path | None, typer.Option(
        show_default=False, help="A text file, one prompt a line; needs --llm-model.  [default: the package's own 100, "
                                 "entities and intervals chosen]")] = None,
    llm_model: Annotated[str | None, typer.Option(help="Language model that picks entities and intervals.",
                                                  show_default=False)] = None,
    llm_url: Annotated[str | None, typer.Option(help="Any OpenAI-compatible server, e.g. http://localhost:8000/v1; its "
                                                "key is read from OPENAI_API_KEY.", show_default=False)] = None,
    most: Annotated[int, typer.Option(min=1, max=8, help="Entities of a prompt.")] = 2,
    t2i: Annotated[str | None, typer.Option(
        show_default=False, help="Text-to-image weights of diffusers that paint the references: a folder or a name on "
                                 "the hub.")] = None,
    t2i_steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps of it.  [default: its own]",
                                                  show_default=False)] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder with references of your own in place of --t2i: "
                                                  "<word>.png or <id>-<word>.png.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="The suite's name.  [default: the folder's]",
                                             show_default=False)] = None,
    duration: Annotated[float, typer.Option(min=1.0, help="Seconds a video; the package's own prompts are for 5.")]
    = 5.0,
    device: DeviceOption = "auto",
) -> None:
    """Build a suite for real models: entities and intervals by a language model, references by a text-to-image one."""
    from alchemint.s2vtime import builder
    from alchemint.s2vtime.suite import About

    if (t2i is None) == (pictures is None):
        raise ValueError("references come from --t2i or from --pictures; give one of them")
    if prompts is None:
        if duration < 5.0:
            raise ValueError("the package's own prompts have intervals of up to 5 s; give --duration 5 or more, or "
                             "--prompts of your own")
        asked = builder.shipped_prompts()
        choose: Callable[[Prompt], Outcome] = _nobody_chooses
    else:
        if llm_model is None:
            raise ValueError("--prompts of your own need --llm-model (and --llm-url), which picks entities and "
                             "intervals")
        asked = builder.read_prompts(prompts)
        choose = _chooser(llm_model, llm_url, duration, most)
    outcomes = list(progress(builder.choose_all(out, asked, choose), len(asked), "choosing"))
    for outcome in outcomes:
        if outcome.chosen is None:
            typer.echo(f"{outcome.prompt.id}: {outcome.reason}", err=True)
    references = builder.Pictures(pictures) if pictures is not None else _painter(str(t2i), t2i_steps, device)
    about = About(name=name or out.resolve().name, version=1, description=" ".join(filter(None, (
        f"Prompts: {'the own ones of alchemint' if prompts is None else prompts.name}.",
        llm_model and f"Chosen by {llm_model}.", f"References: {t2i or 'brought along'}."))))
    suite = builder.build_suite(out, about, outcomes, references, duration)
    typer.echo(f"{len(suite.entries)} of {len(asked)} prompts in {out}, hash {suite.sha256[:12]}")


def _nobody_chooses(prompt: "Prompt") -> "Outcome":
    raise AssertionError(f"{prompt.id} has its entities")


def _chooser(model: str, url: str | None, duration: float, most: int) -> "Callable[[Prompt], Outcome]":
    """Return what asks a language model, with lost connections as errors that a user can mend."""
    from alchemint import language_model
    from alchemint.s2vtime.builder import LlmChooser

    chooser = LlmChooser(language_model.connect(url), model, duration, most)

    def choose(prompt: "Prompt") -> "Outcome":
        try:
            return chooser.choose(prompt)
        except language_model.AnswerError as error:
            raise ValueError(f"{error}; what was chosen is kept, and the same command goes on") from error

    return choose


def _painter(weights: str, steps: int | None, device: Device) -> "Painter":
    import torch
    from diffusers import AutoPipelineForText2Image

    from alchemint.cli.models import pick_device, pick_dtype
    from alchemint.s2vtime.builder import DiffusersPainter

    chosen = pick_device(device)
    pipeline = AutoPipelineForText2Image.from_pretrained(weights, dtype=getattr(torch, pick_dtype("auto", chosen)))
    pipeline.to(chosen)
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPainter(pipeline, steps)
