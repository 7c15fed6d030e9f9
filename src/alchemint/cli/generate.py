"""`alchemint generate`: a storyboard to a video file, with a record of everything that made it."""

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from math import ceil
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from alchemint.cli.acceleration import (
    AttentionBackendOption,
    BranchParallelOption,
    CompileOption,
    ContextParallelOption,
    StepCacheOption,
    acceleration_options,
    calibration_file,
    exhaust,
    is_first_process,
    new_console,
    write_calibration,
)
from alchemint.cli.memory import MemoryOption, QuantizeOption, memory_line
from alchemint.cli.models import (
    BASE_HELP,
    MODEL_HELP,
    TOY,
    DeviceOption,
    Dtype,
    ModelSource,
    find_model,
    load_pipeline,
    pick_device,
    pick_dtype,
)

if TYPE_CHECKING:
    from alchemint.diffusion.guidance import Guidance
    from alchemint.long_video import Window
    from alchemint.pipeline import AlchemintPipeline
    from alchemint.rendering import Options
    from alchemint.storyboard import Storyboard


def generate(
    storyboard: Annotated[Path, typer.Argument(help="A storyboard, YAML or JSON.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The video file.  [default: the storyboard's "
                                                "name with .mp4]", show_default=False)] = None,
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}.")] = TOY,
    base: Annotated[str | None, typer.Option(help=BASE_HELP, show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1,
                                               help="Of the noise, instead of the storyboard's.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 40,
    guidance: Annotated[str | None, typer.Option(help="chained or joint.")] = None,
    image_scale: Annotated[float | None, typer.Option(help="How strongly the reference images steer.  "
                                                       "[default: the model's own]", show_default=False)] = None,
    text_scale: Annotated[float | None, typer.Option(help="How strongly the prompt steers.  [default: the "
                                                      "model's own]", show_default=False)] = None,
    joint_scale: Annotated[float | None, typer.Option(help="How strongly both together steer (joint only).")] = None,
    guidance_interval: Annotated[tuple[float, float] | None, typer.Option(
        help="The part of the steps that is guided, as fractions.", show_default=False)] = None,
    image_interval: Annotated[tuple[float, float] | None, typer.Option(
        help="The part of the steps that images guide, as fractions.", show_default=False)] = None,
    text_interval: Annotated[tuple[float, float] | None, typer.Option(
        help="The part of the steps that the text guides, as fractions.", show_default=False)] = None,
    batch_branches: Annotated[bool, typer.Option("--batch-branches/--sequential-branches", help="Run guidance's "
                              "evaluations as one batch, or one after the other with less memory.")] = True,
    reference_gate: Annotated[float | None, typer.Option(help="Experimental, for models that were trained with untimed "
                              "references: how much attention to a reference sinks outside its intervals, such as 8.",
                              show_default=False)] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[Dtype, typer.Option(help="auto is bfloat16 on cuda and float32 on a CPU.")] = "auto",
    sheet: Annotated[bool, typer.Option("--sheet", help="Write a contact sheet (PNG) beside the video.")] = False,
    upscale: Annotated[int, typer.Option(min=1, help="Enlarge the video by this whole factor, pixels kept.")] = 1,
    window: Annotated[int | None, typer.Option(help="Frames made at once, 4k+1; a longer video is made in windows that "
                                               "go on from each other.  [default: the model's own]",
                                               show_default=False)] = None,
    overlap: Annotated[float | None, typer.Option(help="Seconds that such windows share.  [default: three latents]",
                                                  show_default=False)] = None,
    memory: MemoryOption = "high",
    quantize: QuantizeOption = None,
    attention_backend: AttentionBackendOption = None,
    compile_blocks: CompileOption = False,
    step_cache: StepCacheOption = None,
    context_parallel: ContextParallelOption = 1,
    branch_parallel: BranchParallelOption = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show the plan; load no weights.")]
    = False,
) -> None:
    """Make a video of a storyboard, and beside it a JSON file with everything that made it."""
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    storyboard.open("rb").close()  # a wrong path is told before the wait for torch
    target = _target(output or Path(storyboard.with_suffix(".mp4").name))
    source = find_model(model, base)
    if base is not None:
        model = f"{model} on {base}"
    console = new_console()

    with console.status("reading"):
        from alchemint.acceleration import accelerate, check, processes
        from alchemint.diffusion.guidance import Guidance
        from alchemint.long_video import windows_of
        from alchemint.memory import MemoryOptions, fit
        from alchemint.memory import check as check_memory
        from alchemint.model_folder import read_defaults, read_guidance
        from alchemint.rendering import Options, sample, write
        from alchemint.storyboard import load_storyboard

        defaults, transformer = read_defaults(source.config_folder, source.base_folder)
        board = load_storyboard(storyboard, defaults)
    if board.seed is None or seed is not None:
        board = board.model_copy(update={"seed": secrets.randbelow(2**31) if seed is None else seed})
    window = defaults.num_frames if window is None else window
    windows = windows_of(board, window, overlap)
    warnings = board.warnings()
    if overlap is not None and len(windows) == 1:
        warnings.append(f"--overlap has no effect, as the video fits into a window of {window} frames")
    for warning in warnings if is_first_process() else []:
        typer.echo(f"warning: {warning}", err=True)
    given: dict[str, Any] = {"mode": guidance, "image_scale": image_scale, "text_scale": text_scale,
                             "joint_scale": joint_scale, "interval": guidance_interval,
                             "image_interval": image_interval, "text_interval": text_interval}
    changed = {name: value for name, value in given.items() if value is not None}
    chosen, chosen_2 = (Guidance(**read_guidance(source.config_folder, source.base_folder, second) | changed)
                        for second in (False, True))
    if reference_gate is not None:
        from alchemint.model.interval_gate import check_strength

        check_strength(reference_gate)
    chosen_device = pick_device(device)
    options = Options(steps, chosen, chosen_2, batch_branches, chosen_device, pick_dtype(dtype, chosen_device), upscale,
                      window, overlap, reference_gate,
                      acceleration_options(attention_backend, compile_blocks, step_cache, context_parallel,
                                           branch_parallel),
                      MemoryOptions(memory, quantize))
    check_memory(options.memory, options.device, options.dtype, source.config_folder, not source.is_wan,
                 options.acceleration)
    with processes(options.device):
        check(options.acceleration, transformer, options.device, options.dtype)
        _show_plan(console, board, windows, options, model, source, transformer, defaults.size_multiple)
        if dry_run:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder that takes no files is told before the work, not after.
        for file in (target, calibration_file(step_cache)):
            if file is not None:
                TemporaryFile(dir=file.parent).close()
        begun = time.perf_counter()
        with console.status("loading the model"):
            pipeline = load_pipeline(source, options.device, options.dtype, options.memory)
        accelerate(pipeline, options.acceleration)
        fit(pipeline, options.memory, options.device)
        loading = time.perf_counter() - begun
        with _progress(console, options.steps, len(windows)) as on_step_end, \
                closing(sample(pipeline, board, options, on_step_end)) as frames:
            if not is_first_process():
                exhaust(frames)
                return
            written = write(target, frames, board, options, model, loading,
                            target.with_suffix(".png") if sheet else None)
        console.print(f"wrote   {', '.join(map(str, written.paths))} (loading {written.seconds['loading']:.1f} s, "
                      f"sampling {written.seconds['sampling']:.1f} s)", markup=False, highlight=False, soft_wrap=True)
        if (table := calibration_file(step_cache)) is not None:
            path = write_calibration(pipeline, table)
            console.print(f"wrote   {path}, for --step-cache mag:{path}", markup=False, highlight=False)


def _target(path: Path) -> Path:
    """Return the path of the video if it can be one."""
    if path.suffix.lower() != ".mp4":
        raise ValueError(f'output "{path}" must end in .mp4; the video is H.264 in MP4')
    if path.is_dir():
        raise ValueError(f'output "{path}" is a folder; name a file in it')
    return path


def _show_plan(
    console: Console, board: "Storyboard", windows: "list[Window]", options: "Options", model: str,
    source: ModelSource, transformer: dict[str, Any], size_multiple: int,
) -> None:
    from alchemint import timeline
    from alchemint.cli.chart import timeline_table
    from alchemint.memory_estimate import Work

    assert board.width and board.height and board.num_frames and board.fps, "resolve the storyboard first"
    console.print(board.prompt, style="bold", markup=False, highlight=False)
    console.print(timeline_table(board, width=min(64, max(24, console.width - 36))))
    fullest = max((window.storyboard for window in windows), key=_num_references)
    assert fullest.num_frames
    num_references = _num_references(fullest)
    tokens_per_frame = (board.width // size_multiple) * (board.height // size_multiple)
    counts = {
        "video": timeline.num_latents(fullest.num_frames) * tokens_per_frame,
        "reference": num_references * tokens_per_frame,
        "word-tag": num_references * transformer["num_word_tokens"],
    }
    tokens = " + ".join(f"{count} {name}" for name, count in counts.items())
    guided = [len(options.guidance.evaluations(step / options.steps, _num_references(window.storyboard) > 0))
              for window in windows for step in range(options.steps)]
    evaluations = f"{max(guided)}" if min(guided) == max(guided) else f"{min(guided)} or {max(guided)}"
    times = f"{len(windows)} times " if len(windows) > 1 else ""
    seconds = timeline.duration_s(board.num_frames, board.fps)
    per_process = ceil(max(guided) / options.acceleration.branch_parallel)
    work = Work.of(fullest, per_process, options.batch_branches)
    for line in (
        f"video   {board.width} x {board.height}, {board.num_frames} frames at {board.fps:g} fps ({seconds:g} s)",
        *_about_windows(windows, board.fps),
        f"tokens  {tokens} = {sum(counts.values())}" + (" in the fullest window" if len(windows) > 1 else ""),
        f"work    {times}{options.steps} steps of {evaluations} evaluations ({sum(guided)} in all), "
        f"{_in_words(options.guidance)} guidance"
        + ("" if options.guidance_2 == options.guidance else f", {_in_words(options.guidance_2)} of the second expert"),
        *([f"gate    {options.reference_gate:g} on references outside their intervals (experimental)"]
          if options.reference_gate else []),
        f"with    {model} on {options.device} in {options.dtype}, seed {board.seed}"
        + (f", {options.acceleration}" if str(options.acceleration) else ""),
        memory_line(source, work, options.memory, options.device, options.dtype),
    ):
        console.print(line, markup=False, highlight=False)


def _num_references(board: "Storyboard") -> int:
    return sum(len(subject.images) * len(subject.appears) for subject in board.subjects)


def _about_windows(windows: "list[Window]", fps: float) -> list[str]:
    """Return the plan's line about windows, none where there is one window only."""
    from alchemint import timeline

    if len(windows) == 1:
        return []
    first, last = windows[0].frames
    shared, finally_shared = windows[1].num_shared, windows[-1].num_shared
    line = (f"windows {len(windows)} of {last - first + 1} frames; each goes on from the last {shared} "
            f"({timeline.duration_s(shared, fps):.6g} s) of the one before")
    return [line + (f", the last from {finally_shared}" if finally_shared != shared else "")]


def _in_words(guidance: "Guidance") -> str:
    """Return "chained 3/2": mode, and scales of images, of text, and in joint mode of both."""
    scales = [guidance.image_scale, guidance.text_scale, *([guidance.joint_scale] if guidance.mode == "joint" else [])]
    return f"{guidance.mode} {'/'.join(f'{scale:g}' for scale in scales)}"


@contextmanager
def _progress(console: Console, steps: int, num_windows: int) -> "Iterator[Any]":
    """Show a progress bar; give the pipeline's callback that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"),
               TimeRemainingColumn(compact=True), TextColumn("left"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("denoising", total=steps * num_windows, pace="")
        begun = time.perf_counter()

        def on_step_end(_: "AlchemintPipeline", step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            pace = (time.perf_counter() - begun) / (step + 1)
            description = "denoising" if (step + 1) % steps else "decoding"
            progress.update(task, completed=step + 1, pace=f"{pace:.2f} s/step", description=description)
            return tensors

        yield on_step_end
        progress.update(task, description="done")
