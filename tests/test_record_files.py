"""Record files: rows come back as they were, whole or not at all, and nothing is fetched that is not asked for."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alchemint import record_files, storage
from alchemint.masks import track_of
from alchemint.record_files import (
    Place,
    convert,
    fingerprint,
    read_placed_records,
    read_record,
    read_records,
    read_rows,
    read_shard,
    shard_metadata,
    write_records,
    write_shard,
)
from alchemint.records import ClipRecord, Dropped, Entity, FailedClip, Reference, TimedCaption, Track

NUM_FRAMES = 5


def new_track(seed: int) -> Track:
    random = np.random.default_rng(seed)
    masks = random.random((NUM_FRAMES, 40, 60)) < 0.3
    masks[2] = False
    return track_of(masks, [float(np.float32(score)) for score in random.normal(size=NUM_FRAMES)])


def new_record(number: int, **changes: Any) -> ClipRecord:
    entities = tuple(
        Entity(name=f"fox-{place}", word="fox", track=new_track(10 * number + place),
               references=(Reference(image="a.png", frame=3), Reference(image="é.png")),
               figures={"blur": 0.1, "identity": -2.5} if place else {})
        for place in range(number % 3))
    values: dict[str, Any] = {
        "clip_id": f"clip-{number}", "source": "test", "video": "s3://b/a.mp4", "first_frame": 7 * number, "fps": 29.97,
        "num_frames": NUM_FRAMES, "width": 60, "height": 40, "caption": 'A "fox" – or\ntwo – trot',
        "entities": entities,
        "events": tuple(TimedCaption(during=(0.1 * part, 0.3), text="go") for part in range(number % 4)),
        "dropped": (Dropped(word="hat", filter="area", value=0.001, threshold=0.002),
                    Dropped(word="sky", filter="blur"))}
    return ClipRecord(**{**values, **changes})


RECORDS = [new_record(number) for number in range(9)]
FAILED = FailedClip(clip_id="bad", source="test", video="bad.mp4", stage="cut", reason="it's no\nvideo",
                    dropped=(Dropped(word="hat", filter="area"),))
FAILED_PART = FailedClip(clip_id="part", source="test", video="a.mp4", first_frame=3, num_frames=8, stage="follow",
                         reason="nobody")


def without_masks(record: ClipRecord) -> ClipRecord:
    return record.model_copy(update={"entities": tuple(
        entity.model_copy(update={"track": entity.track.model_copy(update={"masks": ()})})
        for entity in record.entities)})


@pytest.fixture(params=["disk", "memory://"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4()}"


def test_rows_come_back_as_they_were(folder: str) -> None:
    rows = [FAILED, *RECORDS[:5], FAILED_PART]
    write_shard(storage.join(folder, "b.parquet"), iter(rows), {"settings": "abc"})
    write_shard(storage.join(folder, "a.parquet"), RECORDS[5:])
    assert read_shard(storage.join(folder, "b.parquet")) == rows
    assert list(read_rows(folder)) == [*RECORDS[5:], *rows]
    assert list(read_records(folder)) == [*RECORDS[5:], *RECORDS[:5]]


def test_records_are_one_shard(tmp_path: Path) -> None:
    address = write_records(tmp_path / "new", iter(RECORDS))
    assert list((tmp_path / "new").iterdir()) == [Path(address)]
    assert list(read_records(tmp_path / "new")) == RECORDS


def test_places_lead_back_to_whole_records(folder: str) -> None:
    write_shard(storage.join(folder, "a.parquet"), [FAILED, *RECORDS[:4]])
    write_shard(storage.join(folder, "b.parquet"), [*RECORDS[4:], FAILED_PART])
    placed = list(read_placed_records(folder))
    assert [record for _, record in placed] == [without_masks(record) for record in RECORDS]
    for (place, _), record in reversed(list(zip(placed, RECORDS, strict=True))):
        assert read_record(folder, place) == record
    for place in (Place("a.parquet", 0, "bad"), Place("a.parquet", 1, "clip-1"), Place("b.parquet", 40, "clip-1")):
        with pytest.raises(ValueError, match=rf'{place.shard}: clip "{place.clip_id}" is no longer in row {place.row}'):
            read_record(folder, place)


def test_a_shard_that_was_written_anew_is_read_anew(folder: str) -> None:
    write_records(folder, RECORDS)
    (place, _), *_ = read_placed_records(folder)
    changed = new_record(0, caption="changed")
    write_records(folder, [changed, *RECORDS[1:]])
    assert read_record(folder, place) == changed
    write_records(folder, RECORDS[1:])
    with pytest.raises(ValueError, match="the file has changed while it was in use"):
        read_record(folder, place)


class Fetched:
    """What storage is asked for, by file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[tuple[int, int]] = []
        from fsspec.implementations.local import LocalFileSystem

        class Counting(LocalFileSystem):
            cachable = False

            def _open(system, path: str, mode: str = "rb", **options: Any) -> Any:  # noqa: N805
                file = super()._open(path, mode, **options)
                return CountingFile(file, self.parts) if mode == "rb" else file

        monkeypatch.setattr("fsspec.filesystem", lambda protocol: Counting())


class CountingFile:
    """A file that notes which of its bytes are read."""

    def __init__(self, file: Any, parts: list[tuple[int, int]]) -> None:
        self._file = file
        self._parts = parts

    def read(self, size: int = -1) -> bytes:
        before = self._file.tell()
        content: bytes = self._file.read(size)
        self._parts.append((before, before + len(content)))
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "CountingFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def stretch(column: Any) -> tuple[int, int]:
    return column.data_page_offset, column.data_page_offset + column.total_compressed_size


def overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


def test_nothing_is_fetched_that_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "_TAIL", 16)  # else a small file's end is all of it
    address = write_records(tmp_path, RECORDS)
    written = pq.read_metadata(address)
    rows = [[stretch(written.row_group(row).column(number)) for number in range(len(written.schema))]
            for row in range(written.num_row_groups)]
    masks = [chunks[-1] for chunks in rows]
    assert written.num_row_groups == len(RECORDS)
    assert written.schema.column(len(written.schema) - 1).path == "entities.list.element.track.masks.list.element"
    assert max(end for chunks in rows for _, end in chunks) <= Path(address).stat().st_size - written.serialized_size

    record_files._read_footer.cache_clear()
    fetched = Fetched(monkeypatch)
    placed = list(read_placed_records(tmp_path))
    assert sum(overlap(part, mask) for part in fetched.parts for mask in masks) == 0
    seen = sum(end - start for start, end in fetched.parts)
    assert seen < Path(address).stat().st_size - sum(end - start for start, end in masks) + 200

    for row, (place, _) in enumerate(placed):
        fetched.parts.clear()
        assert read_record(tmp_path, place) == RECORDS[row]
        assert fetched.parts == [(rows[row][0][0], rows[row][-1][1])]


def test_a_shard_may_be_empty(folder: str) -> None:
    write_shard(storage.join(folder, "a.parquet"), [], {"settings": "abc"})
    write_shard(storage.join(folder, "b.parquet"), [FAILED])
    assert list(read_rows(folder)) == [FAILED]
    assert list(read_placed_records(folder)) == []
    assert shard_metadata(storage.join(folder, "a.parquet"))["settings"] == "abc"


def test_metadata_tells_of_the_contents(folder: str) -> None:
    address = storage.join(folder, "a.parquet")
    write_shard(address, RECORDS[:2], {"settings": "abc", "made by": "é"})
    first = shard_metadata(address)
    digest = first.pop("digest")
    assert first == {"settings": "abc", "made by": "é", "schema_version": "2"}
    write_shard(address, [RECORDS[0], new_record(1, caption="other")])
    assert shard_metadata(address)["digest"] != digest
    with pytest.raises(ValueError, match="metadata digest: the name is taken"):
        write_shard(address, [], {"digest": "1"})


def test_the_fingerprint_is_that_of_rows_in_their_order(tmp_path: Path) -> None:
    def of(name: str, *shards: list[ClipRecord]) -> str:
        for number, rows in enumerate(shards):
            write_shard(tmp_path / name / f"{number}.parquet", rows, {"settings": name})
        return fingerprint(tmp_path / name)

    same = of("a", RECORDS[:3], RECORDS[3:])
    assert of("b", RECORDS[:3], RECORDS[3:]) == same
    mask = RECORDS[4].entities[0].track.masks
    redrawn = RECORDS[4].entities[0].track.model_copy(update={"masks": (*mask[:-1], mask[0])})
    other = RECORDS[4].model_copy(update={
        "entities": (RECORDS[4].entities[0].model_copy(update={"track": redrawn}),)})
    assert len({same, of("c", RECORDS[3:], RECORDS[:3]), of("d", RECORDS[:3], RECORDS[3:8]),
                of("e", RECORDS[:3], [RECORDS[3], other, *RECORDS[5:]])}) == 4


def test_a_broken_off_write_leaves_the_old_shard(tmp_path: Path) -> None:
    write_records(tmp_path, RECORDS[:1])

    def failing() -> Iterator[ClipRecord]:
        yield RECORDS[1]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_records(tmp_path, failing())
    assert [path.name for path in tmp_path.iterdir()] == ["clips-00000.parquet"]
    assert list(read_records(tmp_path)) == RECORDS[:1]


@pytest.mark.parametrize("size", [0, 3, 100, -1, -1000])
def test_a_cut_off_shard_is_named(tmp_path: Path, size: int) -> None:
    path = Path(write_records(tmp_path, RECORDS))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"clips-00000\.parquet is no whole Parquet file \(.*\); write it anew"):
        list(read_records(tmp_path))


@pytest.mark.parametrize("leaf", [3, -1])
def test_a_damaged_byte_does_not_pass(tmp_path: Path, leaf: int) -> None:
    path = Path(write_records(tmp_path, RECORDS))
    placed = list(read_placed_records(tmp_path))
    written = pq.read_metadata(path)
    _, end = stretch(written.row_group(5).column(leaf % len(written.schema)))
    content = bytearray(path.read_bytes())
    content[end - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"clips-00000\.parquet, rows 5 to 5: the file is damaged \(.*\); write it"):
        read_record(tmp_path, placed[5][0])
    assert read_record(tmp_path, placed[6][0]) == RECORDS[6]


def test_other_schemas_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: schema version 2 of clip records is wanted, but the file has "
                                         "none: it is another kind of table"):
        list(read_rows(tmp_path))
    (tmp_path / "a.parquet").unlink()
    monkeypatch.setattr(record_files, "SCHEMA_VERSION", 3)
    write_records(tmp_path, RECORDS)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="schema version 2 of clip records is wanted, but the file has 3; write it"):
        list(read_rows(tmp_path))


def test_a_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    class Wrong(ClipRecord):
        pass

    wrong = Wrong.model_construct(**{**dict(RECORDS[1]), "num_frames": 99})
    write_shard(tmp_path / "a.parquet", [RECORDS[0], wrong])
    rows = read_rows(tmp_path)
    assert next(rows) == RECORDS[0]
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: not a valid clip record: .*each of the 99 frames"):
        next(rows)


def test_a_folder_without_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        list(read_records(tmp_path / "nowhere"))
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / ".a.1234.partial.parquet").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"holds no records \(\*\.parquet\); write some with alchemint"):
        list(read_records(tmp_path))


def test_records_of_the_former_format_are_converted_as_the_error_says(tmp_path: Path) -> None:
    old = []
    for record in RECORDS:
        values = record.model_dump(exclude={"first_frame", "dropped"})
        for entity in values["entities"]:
            del entity["figures"], entity["track"]["scores"]
        old.append({**values, "schema_version": 1})
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(values, separators=(",", ":")) + "\n" for values in old))
    with pytest.raises(ValueError, match=r"records\.jsonl is of an earlier version; convert it by python -c '") as told:
        list(read_records(tmp_path))
    exec(str(told.value).split("python -c '")[1].removesuffix("'"))
    converted = list(read_records(tmp_path))
    for record, before in zip(converted, RECORDS, strict=True):
        assert (record.clip_id, record.caption, record.events) == (before.clip_id, before.caption, before.events)
        assert [entity.track.masks for entity in record.entities] == [entity.track.masks for entity in before.entities]
    assert convert(tmp_path) == str(tmp_path / "clips-00000.parquet")


def test_other_readers_find_tables_and_runs(tmp_path: Path) -> None:
    """Without a line of ours: what the record format's page says of its columns."""
    write_shard(tmp_path / "a.parquet", [FAILED, *RECORDS])
    table = pq.read_table(tmp_path, columns=["clip_id", "status", "reason", "entities"]).to_pylist()
    assert [row["status"] for row in table] == ["failed"] + ["ok"] * len(RECORDS)
    assert (table[0]["reason"], table[0]["entities"]) == (FAILED.reason, None)
    for row, record in zip(table[1:], RECORDS, strict=True):
        for entity, before in zip(row["entities"], record.entities, strict=True):
            runs = [(run["first"], run["last"]) for run in entity["track"]["runs"]]
            assert runs == before.track.runs == [(0, 1), (3, 4)]
            assert entity["track"]["boxes"][2] is None and entity["track"]["areas"][2] == 0
            assert [box and tuple(box) for box in entity["track"]["boxes"]] == list(before.track.boxes)
            assert dict(entity["figures"]) == before.figures


PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8").split("## Record format")[1]
BLOCKS = [block.split("```")[0] for block in PAGE.split("\n## ")[0].split("```python\n")[1:]]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[1])
def test_the_pages_lines_read_records(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(block.split()[1].split(".")[0])
    monkeypatch.chdir(tmp_path)
    write_shard("clips/a.parquet", [FAILED, *RECORDS])
    write_shard("clips/b.parquet", [FAILED_PART])
    (tmp_path / "clips" / "plan-k.jsonl").write_text("{}\n")  # annotation leaves this beside them
    found: dict[str, Any] = {}
    exec(block, found)
    if "words" in found:
        assert found["words"] == {record.clip_id: ["fox"] * len(record.entities) for record in RECORDS}
    elif "captions" in found:
        assert [row["caption"] for row in found["captions"]] == [None, *(record.caption for record in RECORDS), None]
    elif "failed" in found:
        assert list(found["failed"].reason) == [FAILED.reason, FAILED_PART.reason]
    else:
        assert [row[:3] for row in found["seen"]] == [
            (record.clip_id, entity.name, entity.word) for record in RECORDS for entity in record.entities]


def named(fields: pa.DataType) -> Iterator[str]:
    """Yield the names of all fields of a struct, and of the structs within."""
    for number in range(fields.num_fields):
        field = fields.field(number)
        yield field.name
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(kind):
            yield from named(kind)


def test_the_page_names_every_column() -> None:
    page = PAGE.split("\n\n")
    table = next(part for part in page if part.startswith("| column"))
    names = set(named(pa.struct(list(record_files.SCHEMA))))
    assert len(names) > 30
    told = {part for cell in table.split("`")[1::2] for part in cell.split(".")}
    assert names - told == {"track"} - told
