"""`alchemint annotate`: make training data of video clips, check it, look at it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alchemint.cli.models import DeviceOption

if TYPE_CHECKING:
    from alchemint.annotate.plan import Job
    from alchemint.annotate.progress import Tally

RecordsArgument = Annotated[str, typer.Argument(help="The folder of records, a path or a URL.", show_default=False)]

SUMMARY_FILE = "summary.json"


def annotate_clips(
    clips: Annotated[str, typer.Argument(help="A folder of video files, or a prefix in an object store (s3://…, "
                                         "gs://…).", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Recipe values to change: filters.min_area=0.01 …",
                                                          show_default=False)] = None,
    out: Annotated[str, typer.Option(help="Folder of the records; the same command again goes on where it broke off.",
                                     show_default=False)] = ...,  # type: ignore[assignment]
    captions: Annotated[str | None, typer.Option(help="JSONL with the caption of each video file, perhaps timed.  "
                                                 "[default: a .txt beside each]", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML: models, thresholds; see configs/annotate.yaml.",
                                                show_default=False)] = None,
    llm: Annotated[str | None, typer.Option(help="OpenAI-compatible server whose language model names the entities of "
                                            "captions, as http://localhost:8000/v1.  [default: rules do]",
                                            show_default=False)] = None,
    llm_model: Annotated[str | None, typer.Option(help="Its model.  [default: the only one that it has]",
                                                  show_default=False)] = None,
    device: DeviceOption = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of each stage, each with its own models.  "
                                                "[default: one for each GPU]", show_default=False)] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Make shards with clips that failed anew.")] = False,
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", show_default=False, help="Spread over a Ray "
                                            "cluster: its address, auto, or local for a new one here.")] = None,
) -> None:
    """Find out who is where and when in video clips, and write records that `alchemint train` reads."""
    from alchemint.annotate import over_ray, runner
    from alchemint.annotate.progress import Tally, shown, summary
    from alchemint.cli.allocator import keep_memory
    from alchemint.cli.progress import without_loading_bars

    keep_memory()
    without_loading_bars()
    job = _job(clips, captions, out, recipe, _with_llm(overrides or [], llm, llm_model), device, retry,
               ray is not None)
    tally = Tally()
    with shown(tally):
        if ray is None:
            runner.run(job, tally, num_workers=workers)
        else:
            over_ray.run(job, ray, tally, num_workers=workers)
    if tally.files_done:
        _write_summary(job, tally)
    for line in summary(tally):
        typer.echo(line)


def verify(
    records: RecordsArgument,
    videos: Annotated[bool, typer.Option("--videos", help="Also whether each record's video is there.")] = False,
) -> None:
    """Check that every planned file has its rows once, and that every track decodes."""
    from alchemint.annotate.verify import check

    report = check(records, videos=videos)
    for line in report.lines():
        typer.echo(line)
    if report.faults:
        raise typer.Exit(1)


def show(
    records: RecordsArgument,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("sheet.png"),
    num: Annotated[int, typer.Option(min=1, help="Clips to show, spread evenly over all.")] = 12,
    clip: Annotated[list[str] | None, typer.Option(help="Show these clips, by id.", show_default=False)] = None,
) -> None:
    """Draw clips with their subjects' masks, and when each is seen."""
    from PIL import Image

    from alchemint import media, sheet, storage
    from alchemint.annotate.record_sheet import record_sheet, stills_of
    from alchemint.record_files import read_placed_records, read_record

    chosen = _chosen([(place, record.clip_id) for place, record in read_placed_records(records)], num, clip, records)
    sheets: list[Image.Image] = []
    for place in chosen:
        record = read_record(records, place)
        numbers = stills_of(record)
        read = media.frames_of(storage.join(records, record.video), [record.first_frame + number for number in numbers],
                               record.fps)
        sheets.append(record_sheet(record, dict(zip(numbers, read, strict=True))))
    media.write_image(out, sheet.stacked(sheets))
    typer.echo(f"{len(sheets)} clips in {out}")


annotate = {"": annotate_clips, "verify": verify, "show": show}


def _job(clips: str, captions: str | None, out: str, recipe: Path | None, overrides: list[str], device: Any,
         retry: bool, elsewhere: bool) -> "Job":
    """Return what a runner is to do; on machines `elsewhere` a device that is not named is chosen there."""
    from functools import partial

    from alchemint import storage
    from alchemint.annotate.annotation import record_of, video_name
    from alchemint.annotate.plan import Job
    from alchemint.annotate.recipe import load_recipe
    from alchemint.annotate.shots import cut
    from alchemint.annotate.sources import find_sources
    from alchemint.annotate.stages import stages_of
    from alchemint.cli.models import pick_device

    values = load_recipe(recipe, overrides)
    out = out if storage.is_url(out) else str(Path(out).resolve())
    clips = clips if storage.is_url(clips) else str(Path(clips).resolve())
    sources = find_sources(clips, captions)
    if not sources:
        raise ValueError(f"{clips} holds no video file; give the folder that has them")
    placed = device if elsewhere else pick_device(device)
    return Job(sources=sources, out=out, key=values.key, num_files=values.shards.num_files,
               cut=partial(cut, options=values.shots), stages=stages_of(values, placed),
               row_of=partial(record_of, folder=out),
               video_of=lambda source: video_name(source.address, out), settings=values.settings,
               limit_s=values.shards.limit_s, retry=retry, root=video_name(clips, out))


def _with_llm(overrides: list[str], url: str | None, model: str | None) -> list[str]:
    """Return the overrides that --llm and --llm-model stand for, before those that were given."""
    if url is None and model is None:
        return overrides
    from alchemint.language_model import connect, served_model

    name = model or served_model(connect(url))
    given = ["words.by=model", f"words.model.model={name}"]
    return [*given, *([f"words.model.url={url}"] if url else []), *overrides]


def _chosen(clips: list[tuple[Any, str]], num: int, wanted: list[str] | None, records: str) -> list[Any]:
    """Return the places of the clips to show. Raises ValueError for ids that are not there."""
    if not clips:
        raise ValueError(f"{records}: no clip has a record; see alchemint annotate verify")
    if wanted:
        places = {clip_id: place for place, clip_id in clips}
        missing = [clip_id for clip_id in wanted if clip_id not in places]
        if missing:
            raise ValueError(f"{records} has no clip {', '.join(missing)}; its clips are called like {clips[0][1]}")
        return [places[clip_id] for clip_id in wanted]
    count = min(num, len(clips))
    return [clips[(2 * part + 1) * len(clips) // (2 * count)][0] for part in range(count)]


def _write_summary(job: "Job", tally: "Tally") -> None:
    """Write what the last run that did something did, beside the records, for machines."""
    import json

    from alchemint import storage

    values = {"key": job.key, "clips": tally.clips, "dropped": tally.dropped,
              "failures": [{"stage": stage, "reason": reason, "clips": count}
                           for (stage, reason), count in tally.failures.most_common()]}
    storage.write_text(storage.join(job.out, SUMMARY_FILE), json.dumps(values, indent=1, ensure_ascii=False) + "\n")
