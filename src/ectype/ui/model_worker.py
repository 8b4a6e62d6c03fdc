"""The process that models are loaded in: it reads requests from its standard input, and answers on its output.

It uses one thread at a low priority, so that a training keeps the cores, and has limits of its memory, of the size of
the files that it writes, and of its processor time for each request. What it decodes and loads may be damaged or
hostile: if it dies, the server starts another one.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

MAX_MODELS = 4
"""Models that are kept; of more, the one that was used last longest ago is dropped."""
MEMORY_BYTES = 6 * 2**30
"""Memory that may be used in addition to that of the libraries."""
FILE_BYTES = 2**30
NICENESS = 10
SPACE_SECONDS = 15.0
"""How long codes are computed for a map."""
MAX_CODES = 256
"""Codes of a request."""


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not get between the answers.
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    with suppress(OSError):
        os.nice(NICENESS)
    import torch

    torch.set_num_threads(1)
    with suppress(RuntimeError):
        torch.set_num_interop_threads(1)
    from ectype.ui.frames import pack, unpack

    _limit_memory()
    worker = _Worker()
    while (frame := read_frame(requests)) is not None:
        head, arrays = unpack(frame)
        _limit_time(float(head.pop("cpu_seconds", 60)))
        try:
            answer = pack(*worker.answer(head, arrays))
        except MemoryError:
            answer = pack({"error": "this takes more memory than the page may use.", "kind": "MemoryError"})
        except Exception as error:
            answer = pack(_described(error))
        write_frame(answers, answer)


def _described(error: Exception) -> dict[str, str]:
    from ectype.core.errors import EctypeError
    from ectype.core.escape import as_one_line

    if isinstance(error, EctypeError):
        return {"error": as_one_line(str(error)), "kind": type(error).__name__}
    text = str(error)
    if "DefaultCPUAllocator" in text or "not enough memory" in text or "can't allocate" in text:
        return {"error": "this takes more memory than the page may use.", "kind": "MemoryError"}
    return {"error": as_one_line(f"{type(error).__name__}: {text}"[:300]), "kind": "Exception"}


class _Worker:
    """Answers requests with the models that it keeps."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, tuple[object, Any]] = OrderedDict()

    def answer(self, head: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the head and the arrays of the answer to a request."""
        operation = getattr(self, f"_{head.pop('operation')}")
        return operation(self._explorer(Path(head.pop("run"))), head, arrays)

    def _explorer(self, run: Path) -> Any:
        from ectype.inference.explore import Explorer

        key, stamp = str(run), _stamp(run)
        found = self.kept.pop(key, None)
        if found is None or found[0] != stamp:
            with suppress_warnings():
                explorer = Explorer(run)
            found = (_stamp(run), explorer)  # of an unfinished run, loading has saved the newest weights
        self.kept[key] = found
        while len(self.kept) > MAX_MODELS:
            self.kept.popitem(last=False)
        return found[1]

    def _describe(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        return explorer.describe(), {}

    def _space(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        import numpy as np

        points = explorer.points(SPACE_SECONDS)
        space = points.space
        labels = [] if points.labels is None else points.labels
        values = {
            "mean": space.mean.numpy(),
            "directions": space.directions.numpy(),
            "deviations": space.deviations.numpy(),
            "coordinates": points.coordinates.numpy(),
            "labels": np.array(labels, np.uint16),
        }
        maps = [{"name": name, "x": x, "y": y} for name, x, y in space.maps]
        return {"names": space.names, "maps": maps, "note": points.note}, values

    def _decode(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from ectype.core.images import as_pixels

        return {}, {"images": as_pixels(explorer.decode(self._given(explorer, arrays), _integers(head.get("labels"))))}

    def _sample(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from ectype.core.images import as_pixels

        density = head.get("density")
        codes, labels, images = explorer.sample(
            _whole(head, "count", 1, MAX_CODES),
            seed=_whole(head, "seed", 0, 2**53),
            truncation=_positive(head.get("truncation")),
            label=None if head.get("label") is None else _whole(head, "label", 0, 65534),
            density=str(density) if density else None,
        )
        return {"labels": labels or []}, {"codes": codes.numpy(), "images": as_pixels(images)}

    def _encode(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from ectype.core.images import as_pixels

        code, image = explorer.encode(_file(arrays))
        output = explorer.decode(code[None])
        return {}, {"codes": code.numpy(), "input": as_pixels(image[None]), "output": as_pixels(output)}

    def _apply(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        return _examples(explorer.apply(_file(arrays)))

    def _examples(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        names = head.get("names")
        wanted = [str(name) for name in names][:MAX_CODES] if isinstance(names, list) else None
        return _examples(explorer.examples(wanted, _whole(head, "count", 1, 64)))

    def _codes(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        return {}, {"codes": explorer.codes(self._indices(explorer, head)).numpy()}

    def _pictures(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from ectype.core.escape import as_one_line
        from ectype.core.images import as_pixels

        images, names = explorer.pictures(self._indices(explorer, head))
        return {"names": [as_one_line(name) for name in names]}, {"images": as_pixels(images)}

    def _nearest(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        self._with_points(explorer)
        indices, distances = explorer.nearest(self._given(explorer, arrays)[0], _whole(head, "count", 1, 64))
        return {"indices": indices, "distances": distances}, {}

    def _use(self, explorer: Any, head: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from ectype.ui.tasks import run_task

        return run_task(explorer, str(head["task"]), Path(head["inputs"]), Path(head["out"])), {}

    def _indices(self, explorer: Any, head: dict[str, Any]) -> list[int]:
        self._with_points(explorer)
        found = _integers(head.get("indices")) or []
        return found[:MAX_CODES]

    def _with_points(self, explorer: Any) -> None:
        """Compute the points again in a new process, or after the model was dropped."""
        if explorer.known is None:
            explorer.points(SPACE_SECONDS)

    def _given(self, explorer: Any, arrays: dict[str, Any]) -> Any:
        import torch

        from ectype.core.errors import ModelError

        codes = arrays.get("codes")
        if codes is None or not explorer.length or codes.size % explorer.length:
            raise ModelError(f"a code of '{explorer.name}' has {explorer.length} values.")
        if not 1 <= codes.size // explorer.length <= MAX_CODES:
            raise ModelError(f"1 to {MAX_CODES} codes are decoded at a time.")
        return torch.from_numpy(codes.astype("float32").reshape(-1, explorer.length))


def _examples(found: Any) -> Any:
    from ectype.core.escape import as_one_line
    from ectype.core.images import as_pixels

    names = [as_one_line(name) for name in found.names]
    return {"names": names, "what": found.what}, {"input": as_pixels(found.inputs), "output": as_pixels(found.outputs)}


def _file(arrays: dict[str, Any]) -> bytes:
    from ectype.core.errors import DataError
    from ectype.data.image_file import image_size
    from ectype.ui.tasks import MAX_UPLOAD_PIXELS

    file = arrays.get("file")
    raw = b"" if file is None else file.tobytes()
    size = image_size(raw) if raw else None
    if size is not None and size[0] * size[1] > MAX_UPLOAD_PIXELS:
        raise DataError(f"{size[1]:,}×{size[0]:,} pixels: at most {MAX_UPLOAD_PIXELS:,} are decoded here.")
    return raw


def _whole(head: dict[str, Any], name: str, low: int, high: int) -> int:
    from ectype.core.errors import ModelError

    value = head.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ModelError(f"{name}={str(value)[:40]}: a whole number from {low} to {high} is needed.")
    return value


def _positive(value: Any) -> float | None:
    from ectype.core.errors import ModelError

    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise ModelError(f"truncation={str(value)[:40]}: a number above 0 is needed.")
    return float(value)


def _integers(values: Any) -> list[int] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        from ectype.core.errors import ModelError

        raise ModelError("whole numbers are needed.")
    return values


def suppress_warnings() -> Any:
    """Return a context in which a partly trained model is loaded without a warning."""
    import warnings

    return warnings.catch_warnings(action="ignore")


def _stamp(run: Path) -> object:
    """Return what changes when the model of a run is saved again, or a run that is trained has a new checkpoint."""
    found = []
    for file in (run / "model" / "config.json", run / "model", run / "checkpoints"):
        with suppress(OSError):
            found.append((file.name, file.stat().st_mtime_ns))
    return tuple(found)


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next frame of a stream; None at its end."""
    prefix = stream.read(8)
    if len(prefix) < 8:
        return None
    (length,) = struct.unpack("<Q", prefix)
    frame = stream.read(length)
    return frame if len(frame) == length else None


def write_frame(stream: BinaryIO, frame: bytes) -> None:
    """Write a frame with its length in front of it."""
    stream.write(struct.pack("<Q", len(frame)))
    stream.write(frame)
    stream.flush()


def _limit_memory() -> None:
    """Limit the memory to that of the libraries and `MEMORY_BYTES`, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Let the system end this process when a request has taken so much processor time."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
