"""Run the example of CONTRIBUTING.md, which adds a model, exactly as it is printed there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from ectype.runs.run_dir import RunDir

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


def test_your_own_model_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "smoother.py").write_text(block("python"))
    (tmp_path / "smoother.yaml").write_text(block("yaml"))
    command = shlex.split(re.search(r"^ECTYPE_PLUGINS=.*$", TEXT, re.MULTILINE)[0])
    assert command[:2] == ["ECTYPE_PLUGINS=smoother.py", "ectype"]
    environment = {**os.environ, "ECTYPE_PLUGINS": "smoother.py", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("ectype"))
        return subprocess.run([program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run(*command[2:])
    assert done.returncode == 0, done.stderr
    run_dir = RunDir(tmp_path / "runs" / "smoother")
    assert run_dir.state() == "finished"
    checks = [line["SSE"] for line in run_dir.metrics() if line["kind"] == "check"]
    assert checks[-1] < 0.8 * checks[0]
    assert "PSNR" in done.stdout
    assert run_dir.report.stat().st_size > 10_000
    again = run(*command[2:])
    assert "is finished" in again.stdout
    assert run("reconstruct", "runs/smoother", "runs/smoother/samples").returncode == 0
    refused = run("sample", "runs/smoother")
    assert refused.returncode == 4
    assert refused.stderr.strip() == "error: the model of 'runs/smoother' cannot sample."
    del environment["ECTYPE_PLUGINS"]
    unknown = run("evaluate", "runs/smoother")
    assert unknown.returncode == 5 or unknown.returncode == 2
    assert "smoother" in unknown.stderr
    assert "Traceback" not in unknown.stderr
