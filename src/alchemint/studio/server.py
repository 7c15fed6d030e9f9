"""The studio's HTTP API and its page. All that a browser sends is checked, and nothing it names is a path.

    app = create_app(settings)

docs/studio-api.md tells the API. Every fault is {"faults": ["one line", ...]}.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from alchemint import timeline
from alchemint.document import quoted
from alchemint.studio.bundle import export_bundle, import_bundle
from alchemint.studio.checking import Checked, check, spans, with_ids
from alchemint.studio.events import Streams
from alchemint.studio.guard import Guard, refusal_response
from alchemint.studio.incoming import file_of, parse_json, read_body
from alchemint.studio.job import ROOT, JobOptions
from alchemint.studio.job_folder import JobFolder
from alchemint.studio.jobs import JobRunner
from alchemint.studio.making import FILES
from alchemint.studio.pictures import Picture, PictureStore
from alchemint.studio.refusal import RefusalError
from alchemint.studio.settings import Settings

logger = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"

_LARGE_BODIES = 2
"""How many uploads are held in memory at once; the others wait."""

_CLIENT = re.compile(r"[A-Za-z0-9_-]{0,64}")

Result = TypeVar("Result")


def create_app(settings: Settings) -> FastAPI:
    """Return the studio's application: its page, its API, and the worker that runs as long as it does.

    Raises ValueError when another studio uses the folder, OSError when it cannot be written.
    """
    model, limits = settings.model, settings.limits
    folder = JobFolder(settings.folder)
    pictures = PictureStore(settings.folder, limits)
    streams = Streams(limits.streams, limits.grace_s)
    runner = JobRunner(folder, settings.make, pictures, limits, model.defaults.num_frames, streams.tell)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        streams.begin(runner)
        runner.start()
        try:
            yield
        finally:
            streams.end()
            await run_in_threadpool(runner.stop)

    app = FastAPI(title="alchemint studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, hosts=(settings.host, *settings.hosts), password=settings.password)
    _answer_faults(app)
    uploads = asyncio.Semaphore(_LARGE_BODIES)

    async def document_of(request: Request) -> dict[str, Any]:
        return parse_json(await read_body(request, limits.document_bytes, "the body"))

    async def checked(document: dict[str, Any]) -> Checked:
        return await run_in_threadpool(check, document, model, limits, pictures)

    async def of_upload(request: Request, limit: int, what: str, taken: Callable[[bytes], Result]) -> Result:
        async with uploads:
            body = await read_body(request, limit, what)
            return await run_in_threadpool(lambda: taken(file_of(body, request.headers.get("content-type", ""))))

    @app.get(f"{ROOT}/model")
    def get_model() -> dict[str, Any]:
        defaults = model.defaults
        return {
            "name": model.name, "width": defaults.width, "height": defaults.height, "num_frames": defaults.num_frames,
            "fps": defaults.fps, "duration": timeline.duration_s(defaults.num_frames, defaults.fps),
            "max_duration": limits.max_duration_s, "steps_default": model.steps, "max_steps": limits.steps,
            "temporal_stride": timeline.TEMPORAL_STRIDE, "latent_step_s": timeline.TEMPORAL_STRIDE / defaults.fps,
            "encodings": [model.encoding], "max_subjects": defaults.max_subjects,
            "takes_events": defaults.takes_events, "events_may_overlap": defaults.events_may_overlap,
            "max_pictures": limits.pictures, "max_intervals": limits.intervals, "max_variations": limits.variations,
            "max_picture_bytes": limits.picture_bytes, "sees": model.sees,
        }

    @app.post(f"{ROOT}/pictures")
    async def post_picture(request: Request) -> dict[str, Any]:
        return picture_wire(await of_upload(request, limits.picture_bytes, "the picture", pictures.add))

    @app.get(f"{ROOT}/pictures/{{identity}}")
    def get_picture(identity: str) -> FileResponse:
        path = pictures.path(identity)
        if path is None:
            raise RefusalError(404, f"there is no picture {quoted(identity)}; upload it")
        return FileResponse(path, media_type="image/png",
                            headers={"Cache-Control": "private, max-age=31536000, immutable"})

    @app.post(f"{ROOT}/check")
    async def post_check(request: Request) -> dict[str, Any]:
        found = await checked(await document_of(request))
        answer: dict[str, Any] = {"faults": found.faults, "warnings": found.warnings, "resolved": None, "curves": {},
                                  "spans": {}}
        if found.storyboard is not None:
            curves = await run_in_threadpool(model.curves, found.storyboard)
            answer |= {"resolved": with_ids(found.storyboard), "spans": spans(found.storyboard), "curves": {
                name: [[round(float(value), 5) for value in curve] for curve in rows]
                for name, rows in curves.items()}}
        return answer

    @app.post(f"{ROOT}/storyboards/export")
    async def post_export(request: Request) -> Response:
        document = await document_of(request)
        found = await checked(document)
        if found.storyboard is None:
            raise RefusalError(400, *found.faults)
        packed = await run_in_threadpool(export_bundle, document, found.storyboard)
        return Response(packed, media_type="application/zip",
                        headers={"Content-Disposition": 'attachment; filename="storyboard.zip"'})

    @app.post(f"{ROOT}/storyboards/import")
    async def post_import(request: Request) -> dict[str, Any]:
        suffix = ".json" if "json" in request.headers.get("content-type", "") else ".yaml"
        document, found = await of_upload(request, limits.bundle_bytes, "the file", lambda content: import_bundle(
            content, suffix, limits, pictures))
        return {"storyboard": document, "pictures": [picture_wire(picture) for picture in found]}

    @app.post(f"{ROOT}/jobs")
    async def post_jobs(request: Request) -> dict[str, Any]:
        body = await document_of(request)
        options = _options(body, settings)
        document = body["storyboard"]
        found = await checked(document)
        if found.storyboard is None:
            raise RefusalError(400, *found.faults)
        jobs = await run_in_threadpool(runner.submit, document, found.storyboard, options)
        streams.expect(options.client)
        return {"jobs": jobs}

    @app.get(f"{ROOT}/jobs")
    def get_jobs(limit: int = 50) -> dict[str, Any]:
        return {"jobs": runner.newest(min(max(limit, 0), 1000))}

    @app.get(f"{ROOT}/jobs/{{job_id}}")
    def get_job(job_id: str) -> dict[str, Any]:
        job = runner.get(job_id)
        if job is None:
            raise _no_job(job_id)
        return job

    @app.delete(f"{ROOT}/jobs/{{job_id}}")
    def delete_job(job_id: str) -> dict[str, Any]:
        if runner.cancel(job_id):
            runner.wait_ended(job_id, 1.0)
            return get_job(job_id)
        job = get_job(job_id)
        runner.remove(job_id)
        return {**job, "state": "removed"}

    @app.get(f"{ROOT}/jobs/{{job_id}}/files/{{name}}")
    def get_file(job_id: str, name: str, download: bool = False) -> FileResponse:
        path = runner.file(job_id, name)
        if path is None or not path.is_file():
            raise RefusalError(404, f"job {quoted(job_id)} has no file {quoted(name)}; there may be "
                                    f"{', '.join(FILES)}")
        return FileResponse(path, media_type=FILES[name], filename=f"{job_id}-{name}" if download else None,
                            headers={"Cache-Control": "private, no-cache"})

    @app.get(f"{ROOT}/events")
    async def get_events(request: Request, client: str = "") -> StreamingResponse:
        if fault := _client_fault(client):
            raise RefusalError(400, fault)
        streams.check_room()
        events = streams.stream(client, request.headers.get("last-event-id", ""), request.is_disconnected)
        return StreamingResponse(events, media_type="text/event-stream",
                                 headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    app.mount("/", StaticFiles(directory=WEB, html=True, check_dir=False))
    return app


def picture_wire(picture: Picture) -> dict[str, Any]:
    """Return a picture as the API shows it."""
    return {**asdict(picture), "url": f"{ROOT}/pictures/{picture.id}"}


def _answer_faults(app: FastAPI) -> None:
    """Give every fault the same form, those of the framework, too."""
    def on_refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RefusalError)
        return refusal_response(error)

    def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        reason = "there is nothing at" if error.status_code == 404 else f"{error.detail}:"
        return refusal_response(RefusalError(error.status_code, f"{reason} {request.method} {request.url.path[:200]}"))

    def on_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return refusal_response(RefusalError(400, *(f"{detail['loc'][-1]} {quoted(detail['input'])}: {detail['msg']}"
                                               for detail in error.errors())))

    def on_any(_: Request, __: Exception) -> JSONResponse:
        return refusal_response(RefusalError(500, "the server stumbled; its log tells more"))

    for kind, handler in ((RefusalError, on_refused), (HTTPException, on_http), (RequestValidationError, on_invalid),
                          (Exception, on_any)):
        app.add_exception_handler(kind, handler)


def _options(body: dict[str, Any], settings: Settings) -> JobOptions:
    """Return a submission's options, checked; raises RefusalError with all their faults."""
    limits, given = settings.limits, body.get("options", {})
    faults = [f"unknown key {quoted(key)}; allowed are storyboard and options"
              for key in body if key not in ("storyboard", "options")]
    if not isinstance(body.get("storyboard"), dict):
        faults.append("storyboard is missing; give an object as alchemint generate takes it")
    if not isinstance(given, dict):
        raise RefusalError(400, *faults, f"options {quoted(given)} must be an object with keys and values")
    bounds = {"seed": (0, 2**63 - 1), "steps": (1, limits.steps), "variations": (1, limits.variations),
              "preview_every": (0, limits.steps)}
    known = [part.name for part in fields(JobOptions)]
    values = {key: value for key, value in given.items() if value is not None}
    for key, value in values.items():
        if key in bounds:
            low, high = bounds[key]
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                faults.append(f"{key} {quoted(value)} must be a whole number within {low} .. {high}")
        elif key == "client":
            faults += filter(None, [_client_fault(value)])
        elif key == "keep":
            faults += [] if isinstance(value, bool) else [f"keep {quoted(value)} must be true or false"]
        else:
            faults.append(f"options: unknown key {quoted(key)}; allowed are {', '.join(known)}")
    if faults:
        raise RefusalError(400, *faults[:20])
    return JobOptions(**{"steps": settings.model.steps, **values})


def _client_fault(client: object) -> str | None:
    if isinstance(client, str) and _CLIENT.fullmatch(client):
        return None
    return f"client {quoted(client)} must be up to 64 letters and digits, which name the tab"


def _no_job(job_id: str) -> RefusalError:
    return RefusalError(404, f"there is no job {quoted(job_id)}; it may have been removed")
