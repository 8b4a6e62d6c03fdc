"""The routes of the local page that use models: exploring, and images that a user drops."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ectype.core.errors import DataError, RunError
from ectype.ui.batches import MAX_FILE_BYTES, Batches
from ectype.ui.folder import RunsFolder
from ectype.ui.frames import unpack
from ectype.ui.lanes import Lane
from ectype.ui.workers import ModelWorker

__all__ = ["BodyRefused", "Models", "add_model_routes"]

OPERATIONS = {
    "describe": 60.0,
    "space": 120.0,
    "codes": 60.0,
    "pictures": 60.0,
    "decode": 60.0,
    "sample": 60.0,
    "encode": 60.0,
    "apply": 60.0,
    "nearest": 60.0,
    "examples": 60.0,
}
"""What the page may ask a model for → how long it may take, in seconds."""
MAX_FRAME_BYTES = 4 * 2**20
BODY_SECONDS = 60.0
"""How long an uploaded file may take to arrive."""
MAX_MODEL_FILES = 10_000
MEDIA_TYPES = {
    ".png": "image/png",
    ".csv": "text/csv; charset=utf-8",
    ".zip": "application/zip",
    ".npz": "application/octet-stream",
    ".parquet": "application/octet-stream",
}
FILE_POLICY = "sandbox; default-src 'none'"


class Use(BaseModel):
    """What is to be done with the images of a batch."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=200)
    task: str = Field(min_length=1, max_length=40)


class BodyRefused(Exception):
    """The body of a request is too large, or does not arrive in time.

    Args:
        status: 413 or 408.
        text: Why.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Models:
    """The processes and queues behind the routes.

    Args:
        folder: The runs.
    """

    def __init__(self, folder: RunsFolder) -> None:
        self.folder = folder
        # Two processes, so that a long job does not hold up a drag.
        self.explorer = ModelWorker("explore")
        self.batches = Batches(ModelWorker("use"))
        self.lanes = {
            "explore": Lane(1, waiting=64, seconds=180.0),
            "upload": Lane(4, waiting=64, seconds=60.0),
            "frame": Lane(4, waiting=64, seconds=20.0),  # apart, so that a slow upload does not hold up a drag
            "batch": Lane(2, waiting=32),
        }

    def close(self) -> None:
        """End the processes, and remove what was uploaded."""
        self.explorer.close()
        self.batches.close()

    def run_of(self, key: str) -> Path:
        """Return the directory of a run whose model may be loaded.

        Raises:
            RunError: There is none, or it is refused: nothing outside of the folder is read.
        """
        run = self.folder.readable(key)
        for count, file in enumerate(f for part in (run.model, run.checkpoints) for f in part.rglob("*")):
            if count >= MAX_MODEL_FILES or stat.S_ISLNK(file.lstat().st_mode):
                raise RunError(f"'{run.name}' is refused: its model has a link, or too many files.")
        return run.path


def add_model_routes(api: FastAPI, models: Models) -> None:
    """Add the routes to an application. Those below `/api/raw/` get bytes that are read here, with limits."""

    @api.post("/api/raw/explore/{key}/{operation}")
    async def explore(key: str, operation: str, request: Request) -> Response:
        if operation not in OPERATIONS:
            raise RunError("there is no such operation.")
        limit = MAX_FILE_BYTES + 4096 if operation in ("encode", "apply") else MAX_FRAME_BYTES
        async with models.lanes["frame"].turn():
            body = await _read(request, limit)
        try:
            head, arrays = unpack(body)
        except ValueError as error:
            raise DataError(f"the request cannot be read: {error}.") from None
        run = await asyncio.to_thread(models.run_of, key)
        async with models.lanes["explore"].turn():
            if await request.is_disconnected():
                return Response(status_code=499)
            asked = {**head, "operation": operation, "run": str(run)}
            answer = await models.explorer.ask(asked, arrays, seconds=OPERATIONS[operation])
        return Response(answer, media_type="application/octet-stream")

    @api.post("/api/batches")
    async def create() -> dict[str, Any]:
        async with models.lanes["batch"].turn():
            return models.batches.as_values(await asyncio.to_thread(models.batches.create))

    @api.post("/api/raw/files/{batch_id}")
    async def upload(batch_id: str, name: str, request: Request) -> dict[str, Any]:
        async with models.lanes["upload"].turn():
            batch, stored = models.batches.reserve(batch_id, name[-300:])
            try:
                with (batch.inputs / stored).open("xb") as file:
                    await _receive(request, file, lambda count: models.batches.grow(batch, count))
            except BaseException:
                models.batches.release(batch, stored)
                raise
        return {"name": stored, "count": len(batch.names)}

    @api.post("/api/batches/{batch_id}/start")
    async def start(batch_id: str, asked: Use) -> dict[str, Any]:
        async with models.lanes["batch"].turn():
            run = await asyncio.to_thread(models.run_of, asked.key)
            batch = await asyncio.to_thread(models.batches.start, batch_id, asked.key, run, asked.task)
            return models.batches.as_values(batch)

    @api.post("/api/batches/{batch_id}/cancel")
    async def cancel(batch_id: str) -> dict[str, Any]:
        async with models.lanes["batch"].turn():
            return models.batches.as_values(await asyncio.to_thread(models.batches.cancel, batch_id))

    @api.get("/api/batches/{batch_id}")
    async def state(batch_id: str) -> dict[str, Any]:
        return models.batches.as_values(models.batches.get(batch_id))

    @api.get("/api/batches/{batch_id}/{job}/{name:path}")
    async def result(batch_id: str, job: int, name: str, download: bool = False) -> Response:
        kind = MEDIA_TYPES.get(Path(name).suffix)
        if kind is None:
            raise RunError("there is no such file: it may have been removed.")
        async with models.lanes["batch"].turn():
            raw = await asyncio.to_thread(models.batches.file, batch_id, job, name)
        headers = {"content-security-policy": FILE_POLICY}
        if download or not kind.startswith("image/"):
            headers["content-disposition"] = f'attachment; filename="{Path(name).name}"'  # of plain characters
        return Response(raw, media_type=kind, headers=headers)


async def _read(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        BodyRefused: It is too large, or does not arrive in time.
    """
    body = bytearray()

    class Target:
        def write(self, part: bytes) -> None:
            body.extend(part)

    await _receive(request, Target(), lambda count: None, limit)
    return bytes(body)


async def _receive(request: Request, target: Any, count: Any, limit: int = MAX_FILE_BYTES) -> None:
    """Write the body of a request to a file as it arrives. Raises as `_read` does."""
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise BodyRefused(413, f"a file may have at most {limit // 2**20:,} MiB.")
                count(len(part))
                target.write(part)
    except TimeoutError:
        raise BodyRefused(408, f"the file did not arrive within {BODY_SECONDS:.0f} seconds.") from None
