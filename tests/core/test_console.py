from __future__ import annotations

import io
import time

from ectype.core.console import ActivityConsole, doing, heartbeat, progress_line


def test_a_pipe_is_never_silent_for_long() -> None:
    target = io.StringIO()
    console = ActivityConsole(file=target, max_silent_seconds=0.1, width=80)
    with heartbeat(console):
        doing(console, "measuring recall")
        time.sleep(0.35)
    lines = target.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("  measuring recall (") for line in lines)
    time.sleep(0.2)
    assert target.getvalue().splitlines() == lines


def test_other_lines_count_as_a_sign_of_life() -> None:
    target = io.StringIO()
    console = ActivityConsole(file=target, max_silent_seconds=0.3, width=80)
    with console.heartbeat():
        console.doing(lambda: "training")
        for _ in range(8):
            console.print("check")
            time.sleep(0.05)
    assert "training" not in target.getvalue()


def test_progress_of_preparing_is_shown_by_the_heartbeat() -> None:
    target = io.StringIO()
    console = ActivityConsole(file=target, max_silent_seconds=0.05, width=80)
    show = progress_line(console)
    assert show is not None
    with console.spinner("loading"):
        show(10, 2000)
        time.sleep(0.2)
    assert "preparing 10/2,000 images" in target.getvalue()
    assert progress_line(None) is None
