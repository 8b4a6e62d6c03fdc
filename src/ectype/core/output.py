"""Text streams that never end the program: characters that an encoding lacks are spelled, and write errors are kept."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["SafeStream", "safe_streams"]

SPELLINGS = {
    "→": "->",
    "←": "<-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "÷": "/",
    "±": "+/-",
    "·": "-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "½": "1/2",
    "¼": "1/4",
    "⅛": "1/8",
    "°": " degrees",
    "√": "sqrt",
    "∞": "inf",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ε": "epsilon",
    "λ": "lambda",
    "μ": "mu",
    "σ": "sigma",
    "τ": "tau",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "‖": "||",
    "•": "*",
    **{letter: f"^{number}" for number, letter in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{letter: f"{number}" for number, letter in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}
"""How characters of messages are written in an encoding that lacks them."""


def _spell(character: str) -> str:
    """Return ASCII text for a character: its spelling, a simple stroke for drawings, or an escape as in JSON."""
    if found := SPELLINGS.get(character):
        return found
    code = ord(character)
    if 0x2500 <= code < 0x2580:  # lines of tables and bars
        return "|" if character in "│┃╎╏║" else "-"
    if 0x2580 <= code < 0x25A0 or 0x2800 <= code < 0x2900:  # blocks of bars and frames of a spinner
        return "*"
    # JSON escapes what lies outside of the first plane as two surrogates.
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _spell_range(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spell, error.object[error.start : error.end])), error.end


codecs.register_error("ectype.spell", _spell_range)


class SafeStream:
    """A text stream whose `write` never raises.

    Characters that the encoding lacks are spelled: → becomes ->, and what has no spelling is escaped as in JSON. After
    the first error (a full disk, a closed pipe or terminal), nothing more is written, and the error is kept.

    Args:
        stream: The stream that is written to; everything else is delegated to it.

    Attributes:
        stream: The same.
        error: The error that ended the output; None while it works.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        with self._giving_up():
            if self.error is None:
                encoding = getattr(self.stream, "encoding", None) or "utf-8"
                self.stream.write(text.encode(encoding, "ectype.spell").decode(encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._giving_up():
            if self.error is None:
                self.stream.flush()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not self.stream.closed:
                raise
            self.error = error if isinstance(error, OSError) else OSError(str(error))
            # What is left in buffers would fail once more when the interpreter exits.
            with contextlib.suppress(OSError, ValueError):
                number = self.stream.fileno()
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # libraries would write there, past this stream
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextlib.contextmanager
def safe_streams() -> Iterator[tuple[SafeStream | None, SafeStream | None]]:
    """Replace standard output and standard error by safe streams while the block runs, and yield both.

    A stream that does not exist (closed by the shell) is None.
    """
    before = sys.stdout, sys.stderr
    streams = [None if stream is None else SafeStream(stream) for stream in before]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield streams[0], streams[1]
    finally:
        sys.stdout, sys.stderr = before
