"""`alchemint annotate`: from a folder of video files to training batches, whatever the files are like."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from alchemint import media
from alchemint.cli import perceptions
from alchemint.data.annotated_clips import AnnotatedClips
from alchemint.data.clip_plans import SampleOptions
from alchemint.data.record_clips import ClipFolder
from alchemint.record_files import read_records, read_rows
from alchemint.records import ClipRecord, FailedClip
from alchemint.toyworld import WorldConfig, render_clip
from tests import tiny_perception as tiny
from tests.language_server import serving
from tests.made_videos import made, random_blocks

TOY_RECIPE = Path(__file__).parents[2] / "configs" / "annotate-toy.yaml"
needs_toy = pytest.mark.skipif(not (perceptions.FOLDER / "matcher.safetensors").is_file(),
                               reason="the toy perception is not there")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grounding DINO, CLIP and SAM 2 of the real classes, tiny and random."""
    folder = tmp_path_factory.mktemp("weights")
    for name, model, processor in (("detector", tiny.dino_model(), tiny.dino_processor()),
                                   ("comparer", tiny.clip_model(), tiny.clip_processor()),
                                   ("tracker", tiny.sam_model(), None)):
        model.save_pretrained(folder / name)
        if processor is not None:
            processor.save_pretrained(folder / name)
            tiny.word_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture
def annotate(alchemint: Callable, weights: Path) -> Callable:
    """`alchemint annotate` with random weights, which see something in everything, and filters that let it pass."""
    options = [f"perception.{name}={weights / name}" for name in ("detector", "comparer", "tracker")]
    options += ["perception.box_threshold=0", "perception.min_likeness=-1", "shots.shortest_s=0.4",
                *(f"filters.{name}=null" for name in ("min_seen_s", "max_truncation", "max_overlap", "min_identity"))]
    return lambda *arguments: alchemint("annotate", *arguments, *options)


def captions_file(folder: Path, captions: dict[str, str]) -> Path:
    path = folder / "captions.jsonl"
    media.write_text(path, "".join(json.dumps({"video": name, "caption": text}) + "\n"
                                   for name, text in captions.items()))
    return path


def rows_of(folder: Path) -> dict[str, ClipRecord | FailedClip]:
    return {Path(row.video).name: row for row in read_rows(folder)}


@pytest.mark.slow
def test_whatever_a_file_is_like_it_ends_as_a_row(tmp_path: Path, annotate: Callable, alchemint: Callable) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    frames = random_blocks(12, 48, 64)
    good = made(clips / "good.mp4", frames)
    whole = good.read_bytes()
    (clips / "truncated.mp4").write_bytes(whole[:len(whole) // 3])
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "text.mp4").write_text("A fox trots across the meadow.")
    Image.fromarray(frames[0]).save(clips / "picture.mp4", format="JPEG")
    with av.open(clips / "no_frames.mkv", "w") as file:
        file.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        file.start_encoding()
    made(clips / "variable.mp4", frames, times=[0, 40, 80, 200, 240, 280, 320, 500, 540, 580, 620, 660])
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    made(clips / "turned.mp4", frames, matrix=turned)
    made(clips / "odd.mp4", random_blocks(12, 45, 63), codec="libx264rgb", pix_fmt="rgb24")
    (clips / "latin.mp4").write_bytes(whole.replace(b"Lavf", b"La\xe9f"))
    for name in ("nobody.mp4", "uncaptioned.mp4", "short.mp4"):
        (clips / name).write_bytes(whole)
    made(clips / "short.mp4", frames[:3])
    said = dict.fromkeys((path.name for path in clips.iterdir()), "A fox chases a red balloon.")
    said["nobody.mp4"] = "Fog over the sea at dawn."
    del said["uncaptioned.mp4"]

    out = tmp_path / "records"
    outcome = annotate(clips, "--out", out, "--captions", captions_file(tmp_path, said))
    assert outcome.status == 0, outcome.err
    rows = rows_of(out)
    assert set(rows) == {path.name for path in clips.iterdir()}
    failed = {name: f"{row.stage}: {row.reason}" for name, row in rows.items() if isinstance(row, FailedClip)}
    for name, reason in {
        "truncated.mp4": "cut: ", "empty.mp4": "cut: ", "text.mp4": "cut: ", "picture.mp4": "cut: ",
        "no_frames.mkv": "cut: ", "short.mp4": "cut: ", "nobody.mp4": "name: the caption names nobody",
        "uncaptioned.mp4": "caption: no caption is given",
    }.items():
        assert failed.pop(name).startswith(reason), name
    assert not failed
    turned_row, odd, variable = rows["turned.mp4"], rows["odd.mp4"], rows["variable.mp4"]
    assert (turned_row.width, turned_row.height) == (48, 64)
    assert (odd.width, odd.height) == (63, 45)
    assert 15 < variable.fps < 20, "its frames come at an even pace"
    assert {entity.word for entity in rows["good.mp4"].entities} <= {"fox", "balloon"}
    assert "8 failed" in outcome.out
    assert "name: the caption names nobody" in outcome.out

    report = alchemint("annotate", "verify", out, "--videos")
    assert report.status == 0, report.out
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    again = annotate(clips, "--out", out, "--captions", tmp_path / "captions.jsonl")
    assert again.status == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == before
    other = annotate(clips, "filters.min_area=0.5", "--out", out, "--captions", tmp_path / "captions.jsonl")
    assert other.status == 2
    assert "filters.min_area: 0.002, now 0.5" in other.err

    batch = AnnotatedClips(ClipFolder(out, SampleOptions(sizes=((48, 48),), num_frames=(5,), fps=12, min_area=0.0)), 2,
                           0)[0]
    assert batch.videos is not None
    assert batch.videos.shape == (2, 3, 5, 48, 48)


@pytest.mark.slow
@needs_toy
def test_toyworld_clips_become_records_and_batches(tmp_path: Path, alchemint: Callable) -> None:
    """The accuracy is measured by benchmarks/annotate_toyworld.py; here only that the way leads there."""
    clips = {f"{index}.mp4": render_clip("train", 4_000_000 + index, WorldConfig(128, 128, 25, 6.0), num_subjects=1)
             for index in range(4)}
    for name, clip in clips.items():
        media.write_video(tmp_path / "clips" / name, clip.frames, clip.fps)
        media.write_text((tmp_path / "clips" / name).with_suffix(".txt"), clip.caption)
    out = tmp_path / "records"
    outcome = alchemint("annotate", tmp_path / "clips", "--out", out, "--recipe", TOY_RECIPE)
    assert outcome.status == 0, outcome.err
    right = 0
    for record in read_records(out):
        clip = clips[Path(record.video).name]
        [entity] = record.entities
        assert entity.word == clip.subjects[0].word
        truth = np.flatnonzero(clip.masks[0].mean((1, 2)) >= 1 / 500)
        right += abs(entity.track.span()[0] - truth[0]) <= 1 and abs(entity.track.span()[1] - truth[-1]) <= 1
    assert right >= 3
    sheet = tmp_path / "sheet.png"
    assert alchemint("annotate", "show", out, "--num", 2, "--out", sheet).status == 0
    with Image.open(sheet) as page:
        assert page.height > 2 * 144
    options = SampleOptions(sizes=((64, 64),), num_frames=(13, 25), fps=6)
    batch = AnnotatedClips(ClipFolder(out, options), 2, 0)[0]
    assert batch.videos is not None and batch.references is not None
    assert batch.videos.shape == (2, 3, 25, 64, 64)
    assert batch.references.shape == (2, 1, 3, 64, 64)


@pytest.mark.parametrize(("arguments", "message"), [
    (["clips", "--out", "o"], "clips"),
    (["{}", "--out", "o", "filters.min_are=1"], "filters.min_are"),
    (["{}", "--out", "o", "--recipe", "nothing.yaml"], "nothing.yaml: no such recipe file"),
    (["{}", "--out", "o", "--captions", "nothing.jsonl"], "nothing.jsonl"),
    (["{}", "--out", "o", *(f"perception.{name}=nothing" for name in ("detector", "comparer", "tracker"))],
     '"nothing" is no folder'),
    (["verify", "nothing"], "nothing"),
    (["show", "nothing"], "nothing"),
])
def test_faults_are_told_in_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alchemint: Callable,
                                  arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made(tmp_path / "a.mp4", random_blocks(30))
    media.write_text(tmp_path / "a.txt", "A fox.")
    outcome = alchemint("annotate", *(argument.format(tmp_path) for argument in arguments))
    assert outcome.status == 2, outcome.out
    assert message in outcome.err
    assert all(line.startswith("error: ") for line in outcome.err.splitlines() if line)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_a_language_model_names_entities(tmp_path: Path, annotate: Callable) -> None:
    """One answer is right, one breaks a rule until it is mended, one is nonsense to the end: its clip says so."""
    clips = tmp_path / "clips"
    clips.mkdir()
    said = {"a.mp4": "A fox sits.", "b.mp4": "A cup stands on a table.", "c.mp4": "A balloon rises."}
    for name in said:
        made(clips / name, random_blocks(12, 48, 64))

    def answered(request: dict) -> tuple[int, bytes]:
        messages = request["messages"]
        asked = sum(message["role"] == "assistant" for message in messages)
        right = {"A fox sits.": ["fox"], "A cup stands on a table.": ["cup"] if asked else ["mug"]}.get(
            messages[1]["content"])
        content = json.dumps({"entities": right}) if right else "I would rather not say." + "!" * asked
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        return 200, json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                                "choices": [choice]}).encode()

    out = tmp_path / "records"
    with serving() as server:
        server.body = answered
        outcome = annotate(clips, "--out", out, "--captions", captions_file(tmp_path, said), "--llm", server.url)
    assert outcome.status == 0, outcome.err
    rows = rows_of(out)
    assert [entity.word for entity in rows["a.mp4"].entities] == ["fox"]
    assert [entity.word for entity in rows["b.mp4"].entities] == ["cup"]
    assert rows["c.mp4"].stage == "name"
    assert "UnusableAnswerError" in rows["c.mp4"].reason


def test_a_server_with_several_models_wants_one_named(tmp_path: Path, alchemint: Callable) -> None:
    made(tmp_path / "a.mp4", random_blocks(30))
    with serving() as server:
        server.models = ("qwen", "llama")
        outcome = alchemint("annotate", tmp_path, "--out", tmp_path / "records", "--llm", server.url)
    assert outcome.status == 2
    assert "has 2 models (qwen, llama); name the one to ask" in outcome.err


def test_the_command_without_a_subcommand_is_told_in_the_help(alchemint: Callable) -> None:
    assert "annotate run" in " ".join(alchemint("annotate", "--help").out.split())
    assert "--captions" in alchemint("annotate", "run", "--help").out
