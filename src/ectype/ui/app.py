"""The routes of the local page. They only call what reads runs and starts trainings."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ectype.config.recipe import preset_table
from ectype.core.errors import EctypeError, RunError
from ectype.core.escape import as_one_line
from ectype.ui.access import AccessGuard
from ectype.ui.folder import RunsFolder
from ectype.ui.follow import follow
from ectype.ui.lanes import Lane, LaneFull
from ectype.ui.model_routes import BodyRefused, Models, add_model_routes
from ectype.ui.pictures import Thumbnails
from ectype.ui.state import RunStates
from ectype.ui.trainings import QueueFull, Trainings
from ectype.ui.workers import WorkerFailed

__all__ = ["Page", "create_page"]

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of a report: a page without an origin, that reaches nothing of this server."""
PICTURE_POLICY = "sandbox; default-src 'none'"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KINDS = ("samples", "reconstructions", "translations")


class Start(BaseModel):
    """What a user asks for when a training is started."""

    model_config = ConfigDict(extra="forbid")

    preset: str = Field(min_length=1, max_length=200)
    data: str = Field(min_length=1, max_length=4000)
    minutes: float | None = Field(default=None, gt=0, le=1e7, allow_inf_nan=False)
    images: str | None = Field(default=None, min_length=1, max_length=40)
    overrides: list[str] = Field(default=[], max_length=100)


class Json(JSONResponse):
    """JSON in ASCII: names of files may have bytes that are no text."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Page:
    """The local page of a runs folder.

    Attributes:
        app: The ASGI application, behind its guard.
        trainings: What was started from the page.
        models: What explores and applies models.
        closing: Set it to end the streams of events, so that the server can stop.
    """

    def __init__(self, root: Path, *, token: str, port: int, local: bool = True, trainings: Trainings | None = None):
        self.folder = RunsFolder(root)
        self.states, self.thumbnails = RunStates(), Thumbnails()
        self.trainings = trainings or Trainings(self.folder)
        self.models = Models(self.folder)
        self.closing = False
        self.static = _static_files()
        self.lanes = {
            "list": Lane(2, waiting=64),
            "picture": Lane(4, waiting=512, seconds=30.0),
            "live": Lane(64),
            "change": Lane(1, waiting=4),
            "report": Lane(2, waiting=8),
        }
        api = FastAPI(title="Ectype", docs_url=None, redoc_url=None, openapi_url=None, default_response_class=Json)
        self._add_errors(api)
        self._add_routes(api)
        add_model_routes(api, self.models)
        self.app = AccessGuard(api, token=token, port=port, local=local)

    # ── Routes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add_routes(self, api: FastAPI) -> None:
        @api.get("/")
        async def index() -> Response:
            return self._static("index.html", "")

        @api.get("/static/{name}")
        async def static(name: str, request: Request) -> Response:
            return self._static(name, request.headers.get("if-none-match", ""))

        @api.get("/api/runs")
        async def runs(request: Request) -> Response:
            async with self.lanes["list"].turn():
                body = Json(await asyncio.to_thread(self._list))
            return _unless_known(body, request.headers.get("if-none-match", ""))

        @api.get("/api/presets")
        async def presets() -> Response:
            async with self.lanes["list"].turn():
                table = await asyncio.to_thread(preset_table)
            shown = [{"name": a.name, "summary": a.summary, "family": a.family, "task": a.task} for a in table]
            return Json(shown)

        @api.get("/api/runs/{key}/live")
        async def live(key: str) -> Response:
            release = await self.lanes["live"].enter()
            events = follow(
                lambda: self.folder.find(key),
                self.states,
                lambda: self._extra(key),
                lambda: self.trainings.log(key),
                lambda: self.closing,
            )

            return _Events(events, release)

        @api.get("/api/runs/{key}/pictures/{kind}/{step}")
        async def picture(key: str, kind: str, step: int, small: bool = False) -> Response:
            if kind not in KINDS:
                raise RunError("there is no such picture: it may have been removed.")
            async with self.lanes["picture"].turn():
                raw = await asyncio.to_thread(self._picture, key, kind, step, small)
            headers = {
                "content-security-policy": PICTURE_POLICY,
                "cache-control": "private, max-age=31536000, immutable",
            }
            return Response(raw, media_type="image/png", headers=headers)

        @api.get("/api/runs/{key}/report")
        async def report(key: str) -> Response:
            async with self.lanes["report"].turn():
                raw = await asyncio.to_thread(self.folder.report, key)
            return Response(raw, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

        @api.post("/api/start")
        async def start(asked: Start) -> Response:
            return await self._change(
                lambda: self.trainings.start(
                    asked.preset, asked.data, asked.overrides, minutes=asked.minutes, images=asked.images
                )
            )

        @api.post("/api/runs/{key}/stop")
        async def stop(key: str) -> Response:
            return await self._change(lambda: self.trainings.stop(key))

        @api.post("/api/runs/{key}/resume")
        async def resume(key: str) -> Response:
            return await self._change(lambda: self.trainings.resume(self.folder.readable(key)))

    async def _change(self, change: Callable[[], Any]) -> Response:
        async with self.lanes["change"].turn():
            training = await asyncio.to_thread(change)
        return Json(training.as_values())

    def _add_errors(self, api: FastAPI) -> None:
        def answer(status: int) -> Callable[[Request, Any], Awaitable[Response]]:
            async def answered(request: Request, error: Any) -> Response:
                return Json({"error": as_one_line(str(error))}, status_code=status)

            return answered

        async def invalid(request: Request, error: Any) -> Response:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"][1:])
            return Json({"error": as_one_line(f"{place}: {first['msg']}"[:500])}, status_code=422)

        async def full(request: Request, error: Any) -> Response:
            headers = {"retry-after": "2"}
            text = str(error) or "too many requests of this kind at a time: wait a moment."
            return Json({"error": as_one_line(text)}, status_code=429, headers=headers)

        async def broken(request: Request, error: Any) -> Response:
            return Json({"error": as_one_line(f"{type(error).__name__}: {error}"[:300])}, status_code=500)

        async def refused_body(request: Request, error: Any) -> Response:
            return Json({"error": str(error)}, status_code=error.status, headers={"connection": "close"})

        api.add_exception_handler(BodyRefused, refused_body)
        api.add_exception_handler(WorkerFailed, answer(503))
        api.add_exception_handler(LaneFull, full)
        api.add_exception_handler(QueueFull, full)
        api.add_exception_handler(RunError, answer(404))
        api.add_exception_handler(EctypeError, answer(422))
        api.add_exception_handler(RequestValidationError, invalid)
        api.add_exception_handler(OSError, broken)

    # ── What they return ─────────────────────────────────────────────────────────────────────────────────────────────

    def _list(self) -> dict[str, Any]:
        entries = self.folder.entries()
        self.states.forget_others(entries)
        rows = [{**self._row(entry), **self._extra(entry.key)} for entry in entries]
        shown = {row["key"] for row in rows}
        started = [each.as_values() for each in self.trainings.all()]
        # A training that has ended well is among the runs.
        queue = [each for each in started if each["state"] != "ended" or (each["error"] and each["key"] not in shown)]
        return {"folder": as_one_line(str(self.folder.root)), "runs": rows, "queue": queue}

    def _row(self, entry: Any) -> dict[str, Any]:
        """Return the row of a run. Whatever is wrong with one run, the others are listed."""
        try:
            return self.states.row(entry)
        except Exception as error:
            reason = as_one_line(f"it cannot be read ({type(error).__name__}: {error})"[:300])
            return {"key": entry.key, "name": entry.name, "refused": reason, "state": "refused"}

    def _extra(self, key: str) -> dict[str, Any]:
        """Return what is known of a run because it was started from the page."""
        training = self.trainings.of(key)
        if training is None:
            return {"queue": "", "error": "", "own": False}
        return {"queue": training.state, "error": training.error, "own": training.state != "ended"}

    def _picture(self, key: str, kind: str, step: int, small: bool) -> bytes:
        file, raw = self.folder.picture(key, kind, step)
        return self.thumbnails.get(file, raw) if small else raw

    def _static(self, name: str, known: str) -> Response:
        if name not in self.static:
            raise RunError("there is no such file.")
        body, kind = self.static[name]
        return _unless_known(Response(body, media_type=kind), known)


class _Events(StreamingResponse):
    """A stream of events, which gives its turn back however it ends."""

    def __init__(self, events: AsyncIterator[str], release: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.release = release

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.release()


def _unless_known(response: Response, known: str) -> Response:
    """Return a response with its tag, or that it has not changed if the browser has it."""
    tag = f'"{hashlib.blake2b(response.body, digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if known == tag:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _static_files() -> dict[str, tuple[bytes, str]]:
    """Return the files of the page by name, all read at the start: no path is ever made from a request."""
    found = {}
    for item in files("ectype.ui").joinpath("static").iterdir():
        suffix = Path(item.name).suffix
        if suffix in TYPES:
            found[item.name] = (item.read_bytes(), TYPES[suffix])
    return found


def create_page(root: Path, *, token: str, port: int, local: bool = True) -> Page:
    """Return the page of a runs folder.

    Args:
        root: The runs folder.
        token: The token that opens the page.
        port: The port that the server listens on.
        local: Whether it listens on a loopback address only.
    """
    return Page(root, token=token, port=port, local=local)
