"""The JSON files of a run: written completely or not at all, with a checksum, and read whatever is in them.

A file that was cut off, damaged or written by something else is left out with one warning that names it, so that one
such file spoils neither the rest of its run nor a list of runs.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from ectype.core.errors import EctypeWarning, TrainingError
from ectype.core.files import read_regular, write_text_atomically

__all__ = [
    "JsonLinesFile",
    "parse_json",
    "parse_json_lines",
    "read_json_file",
    "read_json_lines",
    "warn_once",
    "write_json_file",
]

CHECKSUM = "crc32"
"""Key of the checksum. A file or line without it, such as one that a user wrote, is not checked."""

MAX_FILE_BYTES = 64 * 2**20
"""Size above which a JSON file is not read; the largest ones that Ectype writes have a few hundred kilobytes."""
MAX_LINES_BYTES = 1024 * 2**20
"""The same for a file of lines: a line every five seconds for a year has four times less."""

Form = Callable[[Mapping[str, Any]], bool]
"""Whether a mapping has the keys and types that its readers rely on."""

_warned: set[str] = set()
_lock = threading.Lock()


def warn_once(message: str) -> None:
    """Give an `EctypeWarning` with this text, unless this process has given it before."""
    with _lock:
        if message in _warned:
            return
        _warned.add(message)
    warnings.warn(message, EctypeWarning, stacklevel=4)


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _dump(content: Mapping[str, Any], indent: int | None = None) -> str:
    """Return a mapping with its checksum as JSON."""
    plain = json.loads(json.dumps(content))  # as it will be read: keys are texts, tuples are lists
    plain[CHECKSUM] = _checksum(plain)
    text = json.dumps(plain, indent=indent, ensure_ascii=False)
    # A text with bytes of a file name that are not UTF-8 has to be escaped.
    return text if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text) else json.dumps(plain)


def parse_json(raw: bytes, form: Form) -> dict[str, Any]:
    """Return the mapping in a JSON text without its checksum.

    Raises:
        ValueError: There is none, its checksum is wrong, or it has another form. The message is the reason.
    """
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    expected = content.pop(CHECKSUM, None)
    if expected is not None and expected != _checksum(content):
        raise ValueError("its checksum is wrong")
    if not form(content):
        raise ValueError("keys are missing or have other types")
    return content


def write_json_file(file: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a checksum; see `write_text_atomically`.

    Raises:
        TrainingError: The disk is full, or the file cannot be written.
    """
    try:
        write_text_atomically(file, _dump(content, indent=1))
    except OSError as error:
        raise TrainingError(
            f"cannot write '{file}' ({error.strerror}): free some space, or get the right to write there."
        ) from None


def read_json_file(file: Path, form: Form = lambda content: True) -> dict[str, Any] | None:
    """Return the content of a JSON file of a run without its checksum.

    Args:
        file: The file.
        form: Whether the content has the keys and types that the caller relies on.

    Returns:
        None if there is no file. Also if it cannot be read, is damaged, or has another form: then with a warning.
    """
    try:
        return parse_json(read_regular(file, MAX_FILE_BYTES), form)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        warn_once(f"'{file}' is ignored: {reason}; it is damaged, or Ectype did not write it.")
        return None


def read_json_lines(file: Path, form: Form) -> list[dict[str, Any]]:
    """Return the lines of a file with one JSON object per line, without their checksums.

    Lines that are cut off, damaged or of another form are left out, with one warning that names the file and the lines.

    Args:
        file: The file; it may be missing.
        form: Whether a line has the keys and types that the caller relies on.
    """
    try:
        raw = read_regular(file, MAX_LINES_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        warn_once(f"'{file}' is ignored: {error.strerror if isinstance(error, OSError) else error}.")
        return []
    found, bad = parse_json_lines(raw, form)
    if bad:
        numbers = ", ".join(str(number) for number, _ in bad[:5]) + (", …" if len(bad) > 5 else "")
        which = f"line {numbers} is" if len(bad) == 1 else f"{len(bad):,} lines ({numbers}) are"
        warn_once(f"'{file}': {which} left out: {bad[0][1]}.")
    return found


def parse_json_lines(raw: bytes, form: Form) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Return the lines of a text as `read_json_lines` does, and the number and problem of each that is left out."""
    found: list[dict[str, Any]] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(parse_json(line, form))
        except ValueError as error:
            bad.append((number, str(error)))
    return found, bad


class JsonLinesFile:
    """A file to which JSON objects are appended, one line each, with checksums.

    Args:
        file: The file, which is created if it does not exist.
    """

    def __init__(self, file: Path) -> None:
        self._open: TextIO = file.open("a", encoding="utf-8")

    def write(self, content: Mapping[str, Any]) -> None:
        """Append a line. It survives if the process is killed; for a power failure, see `sync`."""
        self._open.write(_dump(content) + "\n")
        self._open.flush()

    def sync(self) -> None:
        """Flush all lines to the disk."""
        os.fsync(self._open.fileno())

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    @staticmethod
    def rewrite(file: Path, lines: list[dict[str, Any]]) -> None:
        """Replace the file by these lines; see `write_text_atomically`."""
        write_text_atomically(file, "".join(_dump(line) + "\n" for line in lines))
