from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import ectype as package
from ectype import cli
from ectype.cli import shared
from ectype.config.recipe import load_recipe, preset_names, preset_path
from ectype.core.tiling import apply_in_tiles
from ectype.runs.run_dir import RunDir
from tests.conformance.small import small

pytestmark = pytest.mark.trains

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ectype(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command; returns exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
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
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for name in ("vae-fast", "ae"):
        recipe = small(name, **{"train.images": 1280, "monitor.every": 640, "latent_dim": 6})
        package.train(recipe, out=root / name)
    return {name: root / name for name in ("vae-fast", "ae")}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three odd pictures: a transparent palette, a turned one, a large grey one."""
    folder = tmp_path / "photos" / "nested"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(noise).quantize(8).save(folder / "palette.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(noise[..., 0].repeat(20, 0).repeat(20, 1)).save(folder / "large.webp")
    return folder.parent


def one_line(text: str) -> str:
    # On a busy machine the heartbeat may speak first: "  encoding (5 s)".
    text = re.sub(r"^  .* \(\d+ s\)\n", "", text, flags=re.MULTILINE)
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


# ── Listing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_presets_are_a_line_each(ectype) -> None:
    code, said, _ = ectype("presets")
    assert code == 0
    lines = said.splitlines()[1:]
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(re.search("none|explicit bound|implicit", line) for line in lines)


def test_a_preset_prints_yaml_that_trains(ectype, tmp_path: Path) -> None:
    code, said, _ = ectype("presets", "vae-fast")
    assert code == 0
    (tmp_path / "mine.yaml").write_text(said)
    code, resolved, _ = ectype("train", tmp_path / "mine.yaml", "digits", "latent_dim=3", "--images", "2M", "--dry-run")
    assert code == 0
    assert "latent_dim: 3" in resolved
    assert "images: 2000000" in resolved
    assert not (tmp_path / "runs").exists()


def test_a_preset_says_what_it_costs_at_the_size_asked_for(ectype) -> None:
    code, said, _ = ectype("presets", "ae-linear", "size=28", "channels=1", "lr=0.5")
    assert code == 0
    assert "lr: 0.5" in said
    comments = [line for line in said.splitlines() if line.startswith("#")]
    assert comments[0] == "# At 28×28 px, 1 channel:"
    assert "# parameters: 32,164" in comments
    assert "# compression: 784 image values ÷ 20 code dimensions = 39.20" in comments
    code, said, _ = ectype("presets", "ae-linear", "--plain")
    assert said == preset_path("ae-linear").read_text()
    code, said, _ = ectype("presets", "ae-linear", "--plain", "--full")
    assert yaml.safe_load(said) == load_recipe("ae-linear").plain()
    code, said, _ = ectype("presets", "ae-linear", "--layers")
    assert re.search(r"^# .*Linear: .* 15,700$", said, re.MULTILINE)
    assert load_recipe(yaml.safe_load(said)) == load_recipe("ae-linear")


def test_a_plain_preset_does_not_import_torch() -> None:
    code = "import sys, ectype.cli; sys.argv[1:] = ['presets', 'ae', '--plain']; ectype.cli.main()"
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    assert traced.stdout == preset_path("ae").read_text()
    assert not re.search(r"\| +torch$", traced.stderr, re.MULTILINE)


def test_runs_are_listed_with_state_and_figure(ectype, runs: dict[str, Path]) -> None:
    code, said, _ = ectype("runs", runs["ae"].parent)
    assert code == 0
    assert re.search(r"vae-fast +finished +1,280 +held-out ½·SSE \+ KL", said)
    assert "no runs in" in ectype("runs", runs["ae"])[1]


# ── Errors: one line, what to do, a code ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words, code, says",
    [
        ("train vea digits", 2, "did you mean 'vae'"),
        ("train vae digits latent_dims=3", 2, "did you mean 'latent_dim'"),
        ("train vae digits resize=stretch", 2, "'crop', 'pad', 'squash' or 'tiles'"),
        ("train vae digits --images many", 2, "train.images='many'"),
        ("train none.yaml digits", 2, "no recipe at 'none.yaml'"),
        ("train vae nowhere/photos", 3, "no images at"),
        ("train vae {empty}", 3, "no images in"),
        ("train {empty} vae", 2, "write `ectype train vae empty`"),
        ("train vae {broken}", 3, "not an image"),
        ("train ae-conv digits size=8", 4, "at least 9×9"),
        ("train vae digits likelihood=bernoulli", 4, "data.binarise=dynamic"),
        ("train vae digits --device abacus", 6, "choose cpu"),
        ("sample nowhere", 7, "no run at 'nowhere'"),
        ("presets vea", 2, "did you mean 'vae'"),
        ("data", 2, "no images given"),
        ("data digits sise=3", 2, "did you mean 'size'"),
        ("data ''", 3, "the path of the images is empty"),
        ("diagnose ''", 3, "the path of the images is empty"),
        ("train vae ''", 3, "the path of the images is empty"),
    ],
)
def test_bad_input(ectype, tmp_path: Path, monkeypatch, words: str, code: int, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8 no more")
    found, _, said = ectype(*shlex.split(words.format(empty="empty", broken="broken")))
    assert says in one_line(said)
    assert said.startswith("error: ")
    assert found == code
    assert not list(tmp_path.glob("runs/*")), "a failed start must leave nothing"


def test_a_run_is_told_what_it_cannot_do(ectype, runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    code, _, said = ectype("reconstruct", runs["ae"], photos, "--draws", 3, "--out", tmp_path / "out")
    assert code == 4
    assert "no q(z|x) to draw from" in one_line(said)
    code, _, said = ectype("sample", runs["ae"], "--density", "gnm", "--out", tmp_path / "out.png")
    assert code == 4
    assert "did you mean 'gmm'" in one_line(said)
    code, _, said = ectype("keep", runs["ae"], 7)
    assert code == 5
    assert "it has 0" in one_line(said) or "it has 20, 40" in said
    assert "run.keep_every" in one_line(said)
    code, _, said = ectype("evaluate", runs["ae"].parent)
    assert code == 7
    assert f"this directory contains runs: {runs['ae'].parent}/" in one_line(said)
    code, _, said = ectype("evaluate", f"{runs['ae']}e")
    assert code == 7
    assert f"did you mean '{runs['ae']}'" in one_line(said)
    code, _, said = ectype("encode", runs["ae"], "digits", "--out", tmp_path / "codes.txt")
    assert code == 3
    assert ".parquet, .csv or .npz" in one_line(said)


# ── The work ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_train_evaluate_and_report_in_one_command(ectype, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(small("vae-fast", **{"train.images": 640}).yaml())
    code, said, _ = ectype("train", "r.yaml", "digits", "--out", "mine", "--device", "cpu")
    assert code == 0
    for expected in (
        "1,797 images",
        "parameters",
        "held-out ½·SSE + KL",
        "finished",
        "PSNR",
        "report: mine/report.html",
    ):
        assert expected in said
    assert (tmp_path / "mine" / "report.html").stat().st_size > 10_000
    code, said, _ = ectype("evaluate", "mine", "--json")
    assert code == 0
    figures = json.loads(said)["figures"]
    assert {"mse", "psnr", "ssim"} <= {figure["key"] for figure in figures}
    assert list(figures[0])[:2] == ["key", "name"]
    code, again, _ = ectype("train", "r.yaml", "digits", "--out", "mine", "--device", "cpu")
    assert code == 0
    assert "mine is finished" in again


def test_three_images_are_enough_to_go_all_the_way(ectype, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(small("ae", **{"train.images": 640, "data.channels": 3}).yaml())
    code, said, wrong = ectype("train", "r.yaml", photos, "--out", "run")
    assert code == 0, wrong
    assert "1 train, 1 val, 1 test" in said
    assert "report: run/report.html" in said


def test_data_says_what_was_found(ectype, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for k in range(20):
        Image.fromarray(np.full((20, 20, 3), k * 10, np.uint8)).save(photos / f"{k}.png")
    (photos / "cut.jpg").write_bytes((photos / "nested" / "turned.jpg").read_bytes()[:300])
    code, said, _ = ectype("data", photos, "size=24", "--out", "look.png")
    assert code == 0
    assert "23 images, 1 rejected" in said
    rejects = Path(re.search(r"→ (\S+rejects\.csv)", said)[1])
    assert "cut.jpg" in rejects.read_text()
    with Image.open("look.png") as picture:
        assert min(picture.size) > 24
    code, _, said = ectype("data", photos, "size=24", "--out", photos / "look.png")
    assert code == 3
    assert "would be one of the images" in one_line(said)
    code, _, said = ectype("data", photos, "size=24", "--out", "look.txt")
    assert code == 3
    assert "not a supported image format" in one_line(said)
    monkeypatch.chdir(photos)
    code, said, _ = ectype("data", ".", "size=24")
    assert code == 0
    assert "no picture was written" in said
    assert not (photos / "data.png").exists()
    code, said, _ = ectype("data", "--clean")
    assert "1 prepared sources removed" in said or "prepared sources removed" in said
    assert not rejects.exists()


def test_data_describes_images_that_training_refuses(ectype, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split, names in (("train", "ab"), ("val", "abc")):
        for name in names:
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for k in range(4):
                Image.fromarray(np.full((8, 8 + 24 * (k == 0), 3), k * 40, np.uint8)).save(place / f"{k}.png")
    for k in range(30):
        (tmp_path / "photos" / "train" / "a" / f"wrong-{k}.png").write_text("no image")
    code, said, _ = ectype("data", "photos", "size=8", "split.test=0")
    assert code == 0
    assert "  train: a 4, b 4\n  val: a 4, b 4, c 4\n" in said
    assert "class 'c' has no training images, only held-out ones, so a model cannot learn it" in said
    assert "5 of 20 images lose over 40% of their area by cropping: resize=pad keeps all of it" in said
    assert "training would stop: 30 of 50 images in" in said
    assert "cropping" not in ectype("data", "photos", "size=8", "split.test=0", "resize=pad")[1]
    code, _, said = ectype("train", "ae", "photos", "size=8", "split.test=0")
    assert code == 3
    assert "more than data.max_rejects=0.1 allows" in one_line(said)
    (tmp_path / "two").mkdir()
    for k in range(2):
        Image.fromarray(np.full((8, 8), k * 40, np.uint8)).save(tmp_path / "two" / f"{k}.png")
    code, said, _ = ectype("data", "two")
    assert code == 0
    assert "training would stop: 2 images to train on cannot fill 3 splits" in said


@pytest.mark.skipif(sys.platform == "win32", reason="pipes, and links that need rights there")
def test_commands_that_apply_a_model_see_the_files_that_training_sees(ectype, runs, photos: Path, tmp_path) -> None:
    (photos / ".ipynb_checkpoints").mkdir()
    shutil.copy(photos / "nested" / "palette.png", photos / ".ipynb_checkpoints" / "copy.png")
    os.mkfifo(photos / "camera.png")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "nested" / "palette.png", tmp_path / "elsewhere")
    (photos / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    code, said, _ = ectype("reconstruct", runs["ae"], photos, "--out", tmp_path / "out", "--resize")
    assert code == 0
    assert "4 images" in said
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert written == {
        "overview.png",
        "link/palette.png",
        *(f"nested/{n}.png" for n in ("large", "palette", "turned")),
    }
    code, said, _ = ectype("data", photos, "--out", tmp_path / "data.png")
    assert code == 0
    assert "4 images, 0 rejected" in said
    assert "(1 pipe)" in said
    code, _, said = ectype("reconstruct", runs["ae"], "", "--out", tmp_path / "out")
    assert code == 3
    assert "the path of the images is empty" in one_line(said)


def test_sample(ectype, runs: dict[str, Path], tmp_path: Path) -> None:
    pictures = []
    for seed in (1, 1, 2):
        out = tmp_path / f"{len(pictures)}.png"
        code, said, _ = ectype("sample", runs["vae-fast"], "-n", 9, "--seed", seed, "--out", out)
        assert code == 0
        assert "9 samples" in said
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    for density in ("normal", "gaussian", "gmm"):
        code, said, _ = ectype("sample", runs["ae"], "--density", density, "--out", tmp_path / "ae.png")
        assert code == 0
        assert ("not trained for it" in said) == (density == "normal")
    assert not (runs["vae-fast"] / "model" / "density-gaussian.safetensors").exists()
    ectype("sample", runs["vae-fast"], "--density", "gaussian", "--out", tmp_path / "x.png")
    assert (runs["vae-fast"] / "model" / "density-gaussian.safetensors").exists(), "fitted once and stored"
    code, _, said = ectype("sample", runs["ae"], "--out", tmp_path / "x.txt")
    assert code == 3
    assert "not a supported image format" in one_line(said)


def test_reconstruct_keeps_names_and_folders(ectype, runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, _ = ectype("reconstruct", runs["ae"], photos, "--out", out)
    assert code == 0
    assert "3 images" in said
    assert {str(p.relative_to(out)) for p in out.rglob("*.png")} == {
        "overview.png",
        "nested/palette.png",
        "nested/turned.png",
        "nested/large.png",
    }
    code, _, _ = ectype(
        "reconstruct", runs["vae-fast"], photos / "nested" / "large.webp", "--draws", 8, "--resize", "--out", out / "d"
    )
    draws = sorted((out / "d").glob("large-*.png"))
    assert code == 0
    assert len(draws) == 8
    assert len({path.read_bytes() for path in draws}) == 8, "each draw is another"
    code, _, said = ectype("reconstruct", runs["ae"], out, "--out", out)
    assert code == 3
    assert "would be overwritten" in one_line(said)
    code, _, said = ectype("reconstruct", runs["ae"], tmp_path / "none.png", "--out", out)
    assert code == 3
    assert "no image at" in one_line(said)


def test_reconstruct_keeps_the_size_of_large_images(
    ectype, runs: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    """Turned, deep, transparent and in other modes, above the model's 16×16 in one direction or both."""
    noise = np.random.default_rng(1).integers(0, 255, (33, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(photos / "turned.tiff", exif=exif)
    Image.fromarray(noise).convert("CMYK").save(photos / "cmyk.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(photos / "deep.png")
    Image.fromarray(noise[:10]).save(photos / "flat.png")
    Image.fromarray(noise[:16, :16]).save(photos / "fits.png")
    Image.fromarray(noise[:9, :11]).save(photos / "small.png")
    kept = {
        "nested/palette": (30, 40),
        "nested/turned": (40, 30),
        "nested/large": (600, 800),
        "turned": (33, 50),
        "cmyk": (50, 33),
        "deep": (50, 33),
        "flat": (50, 10),
    }
    sizes = {**kept, "fits": (16, 16), "small": (16, 16)}
    out = tmp_path / "out"
    code, said, wrong = ectype("reconstruct", runs["ae"], photos, "--out", out)
    assert code == 0, wrong
    assert "9 images" in said
    assert "7 larger than 16×16, in tiles" in said
    for name, size in sizes.items():
        with Image.open(out / f"{name}.png") as picture:
            assert (name, picture.size) == (name, size)
    code, said, _ = ectype("reconstruct", runs["ae"], photos, "--resize", "--out", tmp_path / "resized")
    assert "tiles" not in said
    for name in sizes:
        with Image.open(tmp_path / "resized" / f"{name}.png") as picture:
            assert picture.size == (16, 16)
    assert (tmp_path / "resized" / "fits.png").read_bytes() == (out / "fits.png").read_bytes()


def test_reconstruct_blends_tiles_with_the_overlap_asked_for(ectype, runs: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (40, 23), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = package.load(runs["ae"])
    for overlap in (0.25, 0.5):
        out = tmp_path / str(overlap)
        assert ectype("reconstruct", runs["ae"], tmp_path / "a.png", "--overlap", overlap, "--out", out)[0] == 0
        with torch.no_grad():
            image = torch.tensor(pixels)[None] / 255
            expected = apply_in_tiles(model.reconstruct, image, (16, 16), overlap=overlap)[0].numpy()
        with Image.open(out / "a.png") as picture:
            assert np.abs(np.asarray(picture) / 255 - expected).max() < 0.6 / 255


def test_reconstruct_refuses_draws_in_tiles_and_bombs(
    ectype, runs: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    large, out = photos / "nested" / "large.webp", tmp_path / "out"
    code, _, said = ectype("reconstruct", runs["vae-fast"], photos, "--draws", 2, "--out", out)
    assert code == 4
    assert "add --resize" in one_line(said)
    assert not out.exists()
    run = shutil.copytree(runs["ae"], tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["max_pixels"] = 10_000
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = ectype("reconstruct", run, large, "--out", out)
    assert code == 3
    assert "recipe.yaml' is not the file that the run was started with" in said
    assert "too many pixels (480,000, more than data.max_pixels=10000)" in one_line(said.partition("\n")[2])
    code, said, _ = ectype("reconstruct", run, photos, "--out", out)
    assert code == 0
    assert "1 skipped: nested/large.webp (too many pixels" in said


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
@pytest.mark.parametrize("name", ["vae-fast", "ae"])
def test_codes_go_out_and_come_back(ectype, runs: dict[str, Path], tmp_path: Path, suffix: str, name: str) -> None:
    file, out = tmp_path / f"codes.{suffix}", tmp_path / "out"
    code, said, _ = ectype("encode", runs[name], "digits", "--out", file)
    assert code == 0
    assert "1,797 codes of 6 values" in said
    if suffix == "parquet":
        table = pq.read_table(file)
        assert table.column_names[:2] == ["path", "label"]
        assert set(table.column("label").to_pylist()) == set("0123456789")
        first, code_ = (table.column("path")[0].as_py(), np.array(table.column("code")[0].as_py()))
    else:
        with np.load(file) as held:
            first, code_ = str(held["path"][0]), held["code"][0]
    assert ectype("decode", runs[name], file, "--out", out)[0] == 0
    assert len(list(out.rglob("*.png"))) == 1797
    model = package.load(runs[name])
    with torch.no_grad():
        shown = model.decode(torch.tensor(code_)[None].float())
    with Image.open(
        (out / first).with_suffix(".png") if not (out / f"{first}.png").exists() else out / f"{first}.png"
    ) as picture:
        assert np.abs(np.asarray(picture) / 255 - shown[0, 0].numpy()).max() < 0.6 / 255


def test_decode_refuses_what_are_no_codes_of_this_run(ectype, runs: dict[str, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", code=np.zeros((3, 5), np.float32))
    code, _, said = ectype("decode", runs["ae"], tmp_path / "other.npz", "--out", tmp_path / "out")
    assert code == 3
    assert "5 values" in one_line(said)
    assert "has 6" in said
    np.savez(tmp_path / "evil.npz", code=np.zeros((1, 6), np.float32), path=np.array(["../../evil"]))
    assert ectype("decode", runs["ae"], tmp_path / "evil.npz", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "evil.png").exists()
    (tmp_path / "text.parquet").write_text("no")
    code, _, said = ectype("decode", runs["ae"], tmp_path / "text.parquet")
    assert code == 3
    assert "cannot read codes" in one_line(said)


def test_codes_that_cannot_be_images_are_one_line(ectype, runs: dict[str, Path], tmp_path: Path) -> None:
    code, text = np.zeros((3, 6), np.float32), np.full((3, 6), "x")
    for held, reason in (
        ({"code": code, "path": ["a.png", "a.png", "b.png"]}, "two of the images have the name 'a.png'"),
        ({"code": code, "path": ["a.png", "", "b.png"]}, "the path '' of an image contains no file name"),
        ({"code": code, "path": ["a.png", "b.png"]}, "it has 2 paths but 3 codes"),
        ({"code": np.float32(3)}, "cannot read codes"),
        ({"code": np.float32(3), "path": ["a.png"]}, "cannot read codes"),
        ({"code": code, "path": np.array("a.png")}, "cannot read codes"),
        ({"code": text}, "(its column code has type <U1 and shape [3, 6])"),
    ):
        np.savez(tmp_path / "codes.npz", **held)
        found, _, said = ectype("decode", runs["ae"], tmp_path / "codes.npz", "--out", tmp_path / "out")
        assert reason in one_line(said)
        assert found == 3
        assert not (tmp_path / "out").exists()
    # A picture of an overview is one like others here, where none is made.
    np.savez(tmp_path / "codes.npz", code=code.astype(">f8"), path=["a.png", "overview.png", "b.png"])
    assert "3 images" in ectype("decode", runs["ae"], tmp_path / "codes.npz", "--out", tmp_path / "out")[1]
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_where_nothing_can_be_written_is_said_before_a_model_is_loaded(ectype, photos: Path, tmp_path: Path) -> None:
    file, none = tmp_path / "file", tmp_path / "no run"
    file.write_text("mine")
    np.savez(tmp_path / "codes.npz", code=np.zeros((1, 6), np.float32))
    for words in (
        ("reconstruct", none, photos, "--out", file),
        ("decode", none, tmp_path / "codes.npz", "--out", file),
        ("encode", none, "digits", "--out", file / "codes.parquet"),
        ("score", none, photos, "--out", file / "scores.csv"),
        ("score", none, photos, "--out", tmp_path / "scores.csv", "--maps", file),
        ("nearest", none, photos, "--in", "digits", "--out", file / "nearest.png"),
    ):
        code, _, said = ectype(*words)
        assert "choose another path" in one_line(said)
        assert code == 3
    assert file.read_text() == "mine"


def test_what_cannot_be_written_after_all_is_one_line(
    ectype, runs: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "nested" / "palette.png").mkdir(parents=True)
    code, _, said = ectype("reconstruct", runs["ae"], photos, "--out", tmp_path / "out")
    assert code == 3
    assert "Is a directory" in one_line(said)


def test_keep_and_report(ectype, runs: dict[str, Path], tmp_path: Path) -> None:
    assert ectype("keep", runs["ae"], 20)[0] == 0
    assert json.loads((runs["ae"] / "model" / "config.json").read_text())["step"] == 20
    assert ectype("keep", runs["ae"], 40)[0] == 0
    code, said, _ = ectype("report", *runs.values(), "--out", tmp_path / "page.html")
    assert code == 0
    assert "report: " in said
    page = (tmp_path / "page.html").read_text()
    for path in runs.values():
        assert path.name in page


# ── Signals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_exits_with_its_code(tmp_path: Path, number: signal.Signals) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(small("vae-fast", **{"train.images": 10_000_000, "monitor.every": 5_000_000}).yaml())
    command = [Path(sys.executable).with_name("ectype"), "train", recipe, "digits", "--out", tmp_path / "run"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "500"}
    )
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert one_line(said).startswith("stopped: ")
    assert "repeat the command with --resume to continue" in said
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    assert RunDir(tmp_path / "run").state() == "unfinished"


def test_the_installed_command_is_there() -> None:
    found = shutil.which("ectype", path=str(Path(sys.executable).parent))
    assert found
    assert "train" in subprocess.run([found, "--help"], capture_output=True, text=True, check=True).stdout
