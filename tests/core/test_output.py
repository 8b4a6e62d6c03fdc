from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from ectype.core.console import ActivityConsole
from ectype.core.output import SafeStream, safe_streams

TEXT = "64×64 → σ 0.5 … ½ │──⠋ café 猫 🐈 \udcff\n"
FULL = Path("/dev/full")


def written(encoding: str, text: str) -> bytes:
    buffer = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(buffer, encoding=encoding, newline=""))
    assert stream.write(text) == len(text)
    stream.flush()
    return buffer.getvalue()


def test_characters_that_an_encoding_lacks_are_spelled() -> None:
    spelled = rb"64x64 -> sigma 0.5 ... 1/2 |--* caf\u00e9 \u732b \ud83d\udc08 \udcff" + b"\n"
    assert written("ascii", TEXT) == spelled
    assert written("cp1252", "64×64 → é\n") == b"64\xd764 -> \xe9\n"
    assert written("cp949", "→ ×\n").decode("cp949") == "→ ×\n"
    assert written("utf-8", TEXT) == TEXT.replace("\udcff", r"\udcff").encode()
    assert written("utf-16", "→ \udcff") == "→ \\udcff".encode("utf-16")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
def test_a_write_error_is_kept_and_nothing_more_is_written() -> None:
    with FULL.open("w", encoding="utf-8") as target:
        stream = SafeStream(target)
        for _ in range(3):
            stream.write("a line\n")
            stream.flush()
        assert stream.error is not None
        assert stream.error.strerror == "No space left on device"
    # Closing did not fail: what was left in the buffer went nowhere.


def test_a_closed_stream_is_given_up_and_other_errors_are_not_hidden() -> None:
    target = io.StringIO()
    stream = SafeStream(target)
    target.close()
    stream.write("lost")
    assert "closed" in str(stream.error)

    class Faulty(io.StringIO):
        def write(self, text: str) -> int:
            raise ValueError("a fault of the program")

    with pytest.raises(ValueError, match="a fault"):
        SafeStream(Faulty()).write("text")


def test_the_console_prints_in_any_encoding_and_without_a_reader() -> None:
    buffer = io.BytesIO()
    console = ActivityConsole(file=io.TextIOWrapper(buffer, encoding="ascii"), width=80)
    assert console.encoding == "ascii"
    console.print("→ done")
    assert buffer.getvalue() == b"-> done\n"

    class Broken(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise BrokenPipeError(32, "Broken pipe")

    broken = Broken()
    console = ActivityConsole(file=broken, width=80)
    for _ in range(3):
        console.print("a line")
    assert broken.writes == 1


def test_standard_streams_are_replaced_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.StringIO()
    monkeypatch.setattr(sys, "stdout", target)
    monkeypatch.setattr(sys, "stderr", None)
    with safe_streams() as (out, err):
        print("printed")
        assert isinstance(sys.stdout, SafeStream)
        assert out is not None
        assert err is None
    assert sys.stdout is target
    assert target.getvalue() == "printed\n"
