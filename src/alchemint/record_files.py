"""Clip records on disk or in an object store: Parquet files (shards), one row and one row group a clip.

    <folder>/*.parquet      each a shard: ClipRecords and, with their reasons, FailedClips
    <folder>/...            videos and pictures, where records name them by relative paths

Masks are the last leaf of a row, so that a clip without them, and a clip with them, is one stretch of bytes each.
"""

import hashlib
import io
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from alchemint import storage
from alchemint.records import SCHEMA_VERSION, ClipRecord, FailedClip, TimedCaption
from alchemint.storage import Address

OK, FAILED = "ok", "failed"
FIRST_SHARD = "clips-00000.parquet"
OLD_FILE = "records.jsonl"

Row = ClipRecord | FailedClip

_KEYS = "alchemint."
_VERSION, _DIGEST = "schema_version", "digest"
_MASKS = "entities.list.element.track.masks.list.element"
_COMPRESSION_LEVEL = 6
_TAIL = 1 << 16
_ROWS_AT_ONCE = 64


def _struct(**fields: pa.DataType) -> pa.StructType:
    return pa.struct(list(fields.items()))


_TRACK = _struct(runs=pa.list_(_struct(first=pa.int32(), last=pa.int32())), scores=pa.list_(pa.float32()),
                 areas=pa.list_(pa.int32()), boxes=pa.list_(pa.list_(pa.int32())), masks=pa.list_(pa.string()))
_ENTITY = _struct(name=pa.string(), word=pa.string(), figures=pa.map_(pa.string(), pa.float64()),
                  references=pa.list_(_struct(image=pa.string(), frame=pa.int32())), track=_TRACK)
SCHEMA = pa.schema(_struct(
    status=pa.string(), stage=pa.string(), reason=pa.string(), clip_id=pa.string(), source=pa.string(),
    video=pa.string(), first_frame=pa.int64(), fps=pa.float64(), num_frames=pa.int32(), width=pa.int32(),
    height=pa.int32(), caption=pa.string(),
    events=pa.list_(_struct(start_s=pa.float64(), end_s=pa.float64(), text=pa.string())),
    dropped=pa.list_(_struct(word=pa.string(), filter=pa.string(), value=pa.float64(), threshold=pa.float64())),
    entities=pa.list_(_ENTITY)))


@dataclass(frozen=True, order=True)
class Place:
    """Where a clip's record is found again: its shard's name, its row there, and who is to be met there."""

    shard: str
    row: int
    clip_id: str


def write_shard(address: Address, rows: Iterable[Row], metadata: Mapping[str, str] | None = None) -> None:
    """Write rows, in their order, as a shard, whole or not at all; `metadata` comes back from `shard_metadata`.

    Scores of tracks are kept in single precision. Raises ValueError for metadata under a name of our own.
    """
    reserved = {_VERSION, _DIGEST} & set(metadata or ())
    if reserved:
        raise ValueError(f"metadata {', '.join(sorted(reserved))}: the name is taken; use another")
    digest, file = hashlib.sha256(), io.BytesIO()
    # Neither statistics nor dictionaries would be of use in row groups of one row, and they make footers long.
    with pq.ParquetWriter(file, SCHEMA, compression="zstd", compression_level=_COMPRESSION_LEVEL,
                          use_dictionary=False, write_statistics=False, store_schema=False,
                          write_page_checksum=True) as writer:
        for row in rows:
            digest.update(row.model_dump_json().encode() + b"\n")
            writer.write_table(pa.Table.from_pylist([_columns(row)], SCHEMA))
        known = {**(metadata or {}), _VERSION: str(SCHEMA_VERSION), _DIGEST: digest.hexdigest()}
        writer.add_key_value_metadata({_KEYS + key: value for key, value in known.items()})
    storage.write_bytes(address, file.getvalue())


def write_records(folder: Address, records: Iterable[ClipRecord]) -> str:
    """Write all of a folder's records as its one shard, whole or not at all; return the shard's address."""
    address = storage.join(folder, FIRST_SHARD)
    write_shard(address, records)
    return address


def read_rows(folder: Address) -> Iterator[Row]:
    """Yield all rows of a folder's shards, clips and failures.

    Raises FileNotFoundError for a folder without records, ValueError that names the shard for one that can't be read.
    """
    for shard in shard_names(folder):
        yield from _rows(storage.join(folder, shard))


def read_shard(address: Address) -> list[Row]:
    """Return all rows of a shard; raises as `read_rows` does."""
    return list(_rows(address))


def read_records(folder: Address) -> Iterator[ClipRecord]:
    """Yield a folder's records, whole; raises as `read_rows` does."""
    return (row for row in read_rows(folder) if isinstance(row, ClipRecord))


def read_placed_records(folder: Address) -> Iterator[tuple[Place, ClipRecord]]:
    """Yield a folder's records without their masks, which are not even fetched, each with its place.

    Raises as `read_rows` does.
    """
    for shard in shard_names(folder):
        for number, row in enumerate(_rows(storage.join(folder, shard), with_masks=False)):
            if isinstance(row, ClipRecord):
                yield Place(shard, number, row.clip_id), row


def read_record(folder: Address, place: Place) -> ClipRecord:
    """Return the record at a place, whole; of its neighbours nothing is fetched.

    Raises ValueError where another clip has come in its place.
    """
    address = storage.join(folder, place.shard)
    footer = _footer(address)
    found = _row(address, place.row, _values(address, footer, [place.row])[0]) if place.row < footer.num_rows else None
    if not isinstance(found, ClipRecord) or found.clip_id != place.clip_id:
        raise ValueError(f'{address}: clip "{place.clip_id}" is no longer in row {place.row}; the file has changed '
                         "while it was in use, begin anew")
    return found


def shard_names(folder: Address) -> list[str]:
    """Return the names of a folder's shards, sorted.

    Raises FileNotFoundError for a folder without any, ValueError for one with records of the former format alone.
    """
    names = storage.file_names(folder)
    shards = [name for name in names if name.endswith(".parquet")]
    if not shards and OLD_FILE in names:
        raise ValueError(f"{storage.join(folder, OLD_FILE)} is of an earlier version; convert it by python -c 'from "
                         f'alchemint.record_files import convert; convert("{folder}")\'')
    if not shards:
        raise FileNotFoundError(f"{folder} holds no records (*.parquet); write some with alchemint annotate or "
                                "alchemint toyworld")
    return shards


def shard_metadata(address: Address) -> dict[str, str]:
    """Return what `write_shard` was given as metadata, "schema_version", and "digest", a hash of all rows."""
    return {key.removeprefix(_KEYS): value for key, value in _metadata(_footer(address)).items()
            if key.startswith(_KEYS)}


def fingerprint(folder: Address) -> str:
    """Return a hash of all rows of a folder's shards in their order, told from the shards' footers alone."""
    digests = [shard_metadata(storage.join(folder, shard))[_DIGEST] for shard in shard_names(folder)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def convert(folder: Path | str) -> str:
    """Write the records of a `records.jsonl`, the format before Parquet, as a shard; return the shard's path."""
    lines = storage.read_bytes(storage.join(folder, OLD_FILE)).decode().splitlines()
    as_now = f'"schema_version":{SCHEMA_VERSION}'
    return write_records(folder, [ClipRecord.model_validate_json(line.replace('"schema_version":1', as_now, 1))
                                  for line in lines])


def _rows(address: Address, with_masks: bool = True) -> Iterator[Row]:
    footer = _footer(address)
    for first in range(0, footer.num_rows, _ROWS_AT_ONCE):
        numbers = range(first, min(first + _ROWS_AT_ONCE, footer.num_rows))
        for number, values in zip(numbers, _values(address, footer, numbers, with_masks), strict=True):
            yield _row(address, number, values)


def _footer(address: Address) -> pq.FileMetaData:
    """Return what a shard's footer tells, read again only when the shard has changed."""
    return _read_footer(str(address), storage.version(address))


@lru_cache(maxsize=16)
def _read_footer(address: str, version: str) -> pq.FileMetaData:
    end = storage.read_end(address, _TAIL)
    size = int.from_bytes(end[-8:-4], "little") + 8
    if size > len(end):
        end = storage.read_end(address, size)
    try:
        footer = pq.read_metadata(pa.BufferReader(end))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{address} is no whole Parquet file ({error}); write it anew") from error
    found = _metadata(footer).get(_KEYS + _VERSION)
    if found != str(SCHEMA_VERSION):
        raise ValueError(f"{address}: schema version {SCHEMA_VERSION} of clip records is wanted, but the file has "
                         f"{found or 'none: it is another kind of table'}; write it anew with this alchemint, or take "
                         "it out of the folder")
    return footer


def _metadata(footer: pq.FileMetaData) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}


def _values(address: Address, footer: pq.FileMetaData, rows: Sequence[int],
            with_masks: bool = True) -> list[dict[str, Any]]:
    """Return the columns of some of a shard's rows; nothing but their bytes is fetched."""
    leaves = [footer.schema.column(number).path for number in range(len(footer.schema))]
    wanted = [number for number, path in enumerate(leaves) if with_masks or path != _MASKS]
    parts = []
    for row in rows:
        chunks = [footer.row_group(row).column(number) for number in wanted]
        parts.append((chunks[0].data_page_offset, chunks[-1].data_page_offset + chunks[-1].total_compressed_size))
    # As long as the file, but only where something is written does it take memory.
    file = mmap.mmap(-1, parts[-1][1])
    try:
        for (start, end), content in zip(parts, storage.read_parts(address, parts), strict=True):
            file[start:end] = content
        table = pq.ParquetFile(pa.py_buffer(file), metadata=footer, page_checksum_verification=True).read_row_groups(
            rows, columns=[leaves[number] for number in wanted], use_threads=False)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, IndexError) as error:
        raise ValueError(f"{address}, rows {rows[0]} to {rows[-1]}: the file is damaged ({error}); write it "
                         "anew") from error
    values: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return values


def _columns(row: Row) -> dict[str, Any]:
    """Return a row as the file's columns have it."""
    values = row.model_dump(exclude={"schema_version"})
    if isinstance(row, FailedClip):
        return {**values, "status": FAILED}
    events = [{"start_s": event.during[0], "end_s": event.during[1], "text": event.text} for event in row.events]
    for entity, columns in zip(row.entities, values["entities"], strict=True):
        columns["track"]["runs"] = [{"first": first, "last": last} for first, last in entity.track.runs]
    return {**values, "status": OK, "events": events}


def _row(address: Address, number: int, values: dict[str, Any]) -> Row:
    """Return what stands in a row of the file, checked."""
    kind: type[Row] = FailedClip if values["status"] == FAILED else ClipRecord
    known = {name: value for name, value in values.items() if name in kind.model_fields}
    try:
        if kind is FailedClip:
            return FailedClip.model_validate(known)
        for entity in known["entities"]:
            entity["track"].pop("runs")
        events = [TimedCaption(during=(event["start_s"], event["end_s"]), text=event["text"])
                  for event in known["events"]]
        return ClipRecord.model_validate({**known, "events": events})
    except ValidationError as error:
        faults = "; ".join(" ".join(map(str, [*fault["loc"], fault["msg"]])) for fault in error.errors())
        raise ValueError(f"{address}, row {number}: not a valid clip record: {faults}") from error
