"""A job: one video to be made, everything that makes it, and how far it is; as JSON on the disk and on the wire."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from alchemint.studio.making import FILM, MADE, PREVIEW, SHEET, VIDEO

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
ROOT = "/api/v1"


@dataclass(frozen=True)
class JobOptions:
    """How a storyboard's jobs are to be made.

    seed: of the first variation, the next ones count on from it; random ones when None. client: the tab whose closing
    stops the jobs, unless `keep`.
    """

    seed: int | None = None
    steps: int = 40
    variations: int = 1
    preview_every: int = 0
    client: str = ""
    keep: bool = False


@dataclass
class Job:
    """The state of a job. Its storyboard is a document with picture ids as images; times are in seconds."""

    id: str
    seed: int
    storyboard: dict[str, Any]
    options: JobOptions
    num_steps: int
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    state: State = "queued"
    step: int = 0
    step_s: float | None = None
    preview_step: int | None = None
    files: set[str] = field(default_factory=set)
    seen: Mapping[str, Any] | None = None
    attention: Mapping[str, Any] | None = None
    faults: tuple[str, ...] = ()
    changed: int = 0
    """Counts up with each change of any job."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is going to happen."""
        return self.state in ENDED

    def to_record(self) -> dict[str, Any]:
        """Return what job.json holds; the storyboard and the files lie beside it."""
        record = asdict(self)
        for name in ("storyboard", "changed", "preview_step"):
            del record[name]
        return {**record, "files": sorted(self.files), "faults": list(self.faults)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], storyboard: dict[str, Any]) -> "Job":
        """Return the job of job.json and its storyboard; raises TypeError, KeyError or ValueError for anything else."""
        known = {part.name for part in fields(cls)}
        values = {key: value for key, value in record.items() if key in known}
        options = {part.name for part in fields(JobOptions)}
        values["options"] = JobOptions(**{key: value for key, value in record["options"].items() if key in options})
        values["files"], values["faults"] = set(record["files"]), tuple(record["faults"])
        return cls(storyboard=storyboard, **values)

    def to_wire(self, place: int | None) -> dict[str, Any]:
        """Return the job as the API shows it; place: 0 while it runs, 1 for the next, None when it has ended."""

        def url(name: str, suffix: str = "") -> str | None:
            return f"{ROOT}/jobs/{self.id}/files/{name}{suffix}" if name in self.files else None

        remaining = None if self.step_s is None or self.has_ended else self.step_s * (self.num_steps - self.step)
        return {
            "id": self.id, "state": self.state, "place": place, "step": self.step, "num_steps": self.num_steps,
            "step_s": None if self.step_s is None else round(self.step_s, 4),
            "remaining_s": None if remaining is None else round(remaining, 2),
            "seed": self.seed, "storyboard": self.storyboard, "options": asdict(self.options), "created": self.created,
            "preview": url(PREVIEW, "" if self.preview_step is None else f"?step={self.preview_step}"),
            "video": url(VIDEO), "sheet": url(SHEET), "film": url(FILM), "made": url(MADE),
            "seen": self.seen, "attention": self.attention, "faults": list(self.faults),
        }
