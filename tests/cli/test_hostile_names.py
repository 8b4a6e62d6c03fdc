"""Hostile names of classes, files and recipes through every command: nothing of them gets out as more than text."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

import ectype as package
from ectype import cli
from ectype.analysis.results import comparison_page, evaluate
from ectype.cli import shared
from ectype.config.recipe import preset_path
from ectype.evaluation.comparison_stats import compare_figures
from ectype.runs.run_dir import RunDir
from tests.core.test_escape import RAW_CONTROL

pytestmark = pytest.mark.trains

CLASSES = ["<img src=x onerror=alert(1)>", "=cmd|x!A1", "\x1b[31mred[bold]"]
FILES = ["=1+1", "\x1b]0;x\x07", "<b>`x`", "[bold]", "\u202egnp"]
SUMMARY = "</script><script>alert(1)</script> \x1b[2J **b** | =1+1 [/nothing] \\input{x}"
NAME = "=a_[red]`b`&lt;"


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Page(html.parser.HTMLParser):
    """Collects the tags and the attributes of a page that could run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


@pytest.fixture
def ectype(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command, and assert that nothing that it prints is more than text."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["ectype", *map(str, words)])
        for console in (shared.out, shared.err):
            monkeypatch.setattr(console, "_file", None)
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        for text in (said.out, said.err):
            assert not RAW_CONTROL.search(text), text
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("named")
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(40):
            file = FILES[i] if i < len(FILES) else str(i)
            pixels = rng.integers(60 * k, 60 * k + 80, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{file}.png")
    return root


def trained(preset: str, photos: Path, place: Path, *words: str) -> Path:
    recipe = yaml.safe_load(preset_path(preset).read_text(encoding="utf-8"))
    recipe["about"] |= {"name": NAME, "summary": SUMMARY}
    file = place / "=recipe [bold].yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    small = ["train.images=640", "monitor.every=320", "batch=16", "size=8", "run.pictures=4", "monitor.features=pixels"]
    out = place / "run <b>\x1b[1m"
    run = package.train(file, photos, [*small, *words], out=out, progress=False)
    run.report()
    return out


@pytest.fixture(scope="module")
def gan(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("cgan-mlp", photos, tmp_path_factory.mktemp("gan"), "net.hidden=[16]", "critic.hidden=[16]")


@pytest.fixture(scope="module")
def vae(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("vae-mlp", photos, tmp_path_factory.mktemp("vae"), "net.hidden=[16]", "latent_dim=4")


def safe_page(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert not [tag for tag, names in page.found if any(name.startswith("on") for name in names)]
    assert not [tag for tag, _ in page.found if tag in ("i", "iframe", "object")]
    assert all("src" not in names or "alt" in names for tag, names in page.found if tag == "img")
    body = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not RAW_CONTROL.search(body)
    assert "alert(1)</script>" not in body
    return text


def safe_csv(text: str) -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    for cell in (cell for row in rows for cell in row):
        assert not RAW_CONTROL.search(cell)
        assert not cell or cell[0] not in "=+-@\t\r" or re.fullmatch(r"[+-][\d.]+(e[+-]?\d+)?", cell), cell
    return rows


def test_figures_and_findings(ectype, gan: Path, vae: Path) -> None:
    for run in (gan, vae):
        assert ectype("evaluate", run).code == 0
        found = json.loads(ectype("evaluate", run, "--json").out)
        assert bool(found["figures"]) == (run == vae)  # there are too few images to compare samples with
        safe_csv(ectype("evaluate", run, "--csv").out)
        latex = ectype("evaluate", run, "--latex").out
        assert "\\input" not in latex
        assert ectype("evaluate", run, "--all").code == 0
        assert json.loads(ectype("diagnose", run, "--json").out) is not None
        assert ectype("diagnose", run).code == 0


def test_pages_and_lists(ectype, gan: Path, vae: Path, photos: Path, tmp_path: Path) -> None:
    page = safe_page(RunDir(gan).report)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "&lt;/script&gt;" in page
    safe_page(RunDir(vae).report)
    assert ectype("report", gan, vae, "--out", tmp_path / "both.html").code == 0
    safe_page(tmp_path / "both.html")
    assert "run <b>\\x1b[1m" in ectype("runs", gan.parent).out
    assert ectype("data", photos, "size=8", "--out", tmp_path / "data.png").code == 0
    refused = ectype("train", gan.parent / "=recipe [bold].yaml", photos, "nokey[/]\x1b=1")
    assert refused.code == 2
    assert "nokey[/]\\x1b" in refused.err
    assert ectype("train", gan.parent / "=recipe [bold].yaml", photos, "--dry-run").code == 0


def test_commands_that_use_a_model(ectype, gan: Path, vae: Path, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ectype("sample", gan, "-n", 3, "--label", "all").code == 0
    refused = ectype("sample", gan, "-n", 2, "--label", "all")
    assert refused.code == 4
    assert "2 images are too few for 3 classes (--label all)" in refused.err
    assert ectype("sample", gan, "--label", "\x1b[1mnone").code == 4
    folder = photos / CLASSES[2]
    assert ectype("score", vae, folder, "--out", "scores.csv").code == 0
    rows = safe_csv(Path("scores.csv").read_text(encoding="utf-8"))
    assert {"'=1+1.png", "\\x1b]0;x\\x07.png", "<b>`x`.png", "[bold].png"} <= {row[0] for row in rows}
    near = ectype("nearest", vae, folder / "=1+1.png", "--in", photos, "-k", 3)
    assert "\\x1b[31mred[bold]" in near.out
    assert "identical images left out (1)" in near.out
    assert [line.split()[0] for line in near.out.splitlines()[:-1]] == ["image", *["=1+1.png"] * 3]
    rows = safe_csv(Path("nearest.csv").read_text(encoding="utf-8"))
    assert rows[0] == ["image", "rank", "neighbor", "class", "distance"]
    assert [row[1] for row in rows[1:]] == ["1", "2", "3"]
    assert all(row[2] != "\\x1b[31mred[bold]/=1+1.png" for row in rows[1:])
    assert ectype("encode", vae, photos, "--out", "codes.csv").code == 0
    rows = safe_csv(Path("codes.csv").read_text(encoding="utf-8"))
    assert rows[0] == ["path", "label", "split", "z0", "z1", "z2", "z3"]
    assert {row[1] for row in rows[1:]} == {CLASSES[0], f"'{CLASSES[1]}", "\\x1b[31mred[bold]"}
    assert ectype("decode", vae, "codes.csv").code == 0
    assert len(list(Path("decoded").rglob("*.png"))) == 120
    assert ectype("reconstruct", vae, folder).code == 0
    assert ectype("score", vae, photos / "no\x1b[1msuch").code == 3
    # Arguments that a shell made of a pattern may be names of files, too.
    assert "No such command 'no\\x1b[31m'" in ectype("no\x1b[31m").err
    assert "(b\\x1b[31m)" in ectype("runs", "a", "b\x1b[31m").err


def test_what_is_shared(ectype, gan: Path, vae: Path, tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")
    for run in (gan, vae):
        place = tmp_path / f"card-{run.parent.name}"
        assert ectype("export", run, "--to", "safetensors", "--out", place).code == 0
        text = (place / "README.md").read_text(encoding="utf-8")
        assert not RAW_CONTROL.search(text)
        _, header, body = text.split("---\n", 2)
        assert yaml.safe_load(header)["library_name"] == "ectype"
        page = Page(markdown.markdown(body, extensions=["tables", "fenced_code"]))
        assert {tag for tag, _ in page.found} <= {
            *("h1", "h2", "p", "code", "pre", "img", "ul", "li"),
            *("table", "thead", "tbody", "tr", "th", "td"),
        }
        assert all(names == ("alt", "src") for tag, names in page.found if tag == "img")
        # JSON keeps the true names.
        known = json.loads((place / "preprocessing.json").read_text(encoding="utf-8"))["classes"]
        assert sorted(known) == sorted(CLASSES)
    push = ectype("push", vae, "someone/vae", "--local", tmp_path / "hub")
    assert push.code == 0
    card = next((tmp_path / "hub").rglob("README.md")).read_text(encoding="utf-8")
    assert not RAW_CONTROL.search(card)
    assert "<script" not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)


def test_a_comparison(gan: Path, vae: Path, tmp_path: Path) -> None:
    runs = {"<i>gan": [RunDir(gan)], "=vae\x1b": [RunDir(vae)]}
    figures = compare_figures({name: [evaluate(run) for run in some] for name, some in runs.items()})
    out, command = tmp_path / "comparison.html", "ectype compare '</script><i>'"
    safe_page(comparison_page(runs, figures, [SUMMARY, SUMMARY], details=[SUMMARY], out=out, command=command))
