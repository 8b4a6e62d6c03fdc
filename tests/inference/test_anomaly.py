from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype.core.errors import DataError, ModelError
from ectype.data.picture_rows import RowTile, picture_of_rows
from ectype.data.sources.base import strip_tile_suffix
from ectype.export.commands import export
from ectype.inference.anomaly import score
from ectype.inference.codes import encode
from ectype.inference.nearest import nearest
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.run import train

pytestmark = pytest.mark.trains

WORDS = ["width=8", "latent_dim=8", "batch=32", "monitor.every=4000", "optimizer.lr=0.004", "run.pictures=0"]
# Discs are compared exactly, and nothing is sampled.
WORDS += ["augment={flip: false, shift: 0}", "prior=none"]


def disc(seed: int, side: int = 24) -> np.ndarray:
    """A grey disc somewhere, of some size, on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    where, radius = (rng.integers(side // 3, 2 * side // 3, 2), rng.integers(side // 6, side // 3))
    return np.where((y - where[0]) ** 2 + (x - where[1]) ** 2 < radius**2, 160, 20).astype(np.uint8)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("discs")
    for i in range(160):
        Image.fromarray(disc(i)).save(root / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    words = [*WORDS, "train.images=12000", "split={val: 0.2}"]
    return train("ae", discs, words, out=tmp_path_factory.mktemp("runs") / "run")


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_odd_images_come_first_and_their_faults_are_bright(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(12):
        Image.fromarray(disc(1000 + i)).save(tmp_path / f"in/usual-{i}.png")
    scratched = disc(1020)
    scratched[3:6, 15:21] = 255
    Image.fromarray(scratched).save(tmp_path / "in/scratched.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(tmp_path / "in/noise.png")
    (tmp_path / "in/broken.png").write_bytes(b"nothing")
    said = score(run.path, [str(tmp_path / "in")], tmp_path / "scores.csv", maps=tmp_path / "maps").summary
    rows = read(tmp_path / "scores.csv")
    assert "14 images" in said
    assert "1 skipped: broken.png" in said
    assert [row["image"] for row in rows[:2]] == ["noise.png", "scratched.png"]
    assert float(rows[0]["error"]) > 3 * float(rows[-1]["error"])
    share = [float(row["share of held-out images"]) for row in rows]
    held_out = len(open_data(run.recipe.data)[1].split("val"))
    assert share[0] == pytest.approx(1 / (1 + held_out), rel=1e-4)
    # Usual images are spread over what held-out ones do.
    assert 0.1 < np.mean(share[2:]) < 0.9
    with Image.open(tmp_path / "maps/scratched.png") as heat:
        values = np.asarray(heat, float).sum(2)
    assert heat.size == (24, 24)
    assert values[2:7, 14:22].mean() > 2 * values[10:].mean()
    assert values[3:6, 15:21].mean() > 255  # beyond red
    assert (tmp_path / "scores.png").is_file()


def crowd(seed: int) -> np.ndarray:
    """A part of nine discs, of a size that parts of 24 do not divide, or lower than one."""
    discs = [[disc(9 * seed + 3 * k + i) for i in range(3)] for k in range(3)]
    rng = np.random.default_rng(seed)
    height, width = (40, 60) if seed % 2 else (20, 50)
    top, left = rng.integers(0, 72 - height), rng.integers(0, 72 - width)
    return np.block(discs)[top : top + height, left : left + width]


def test_large_images_are_scored_as_held_out_ones_are_seen(run: RunDir, tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(disc(2000 + i)).resize((96, 96), Image.Resampling.NEAREST).save(tmp_path / f"{i}.png")
    score(run.path, [str(tmp_path)], tmp_path / "s.csv", maps=tmp_path / "maps")
    share = [float(row["share of held-out images"]) for row in read(tmp_path / "s.csv")]
    assert 0.1 < np.mean(share) < 0.9
    with Image.open(tmp_path / "maps/3.png") as heat:
        assert heat.size == (24, 24)


def test_a_run_of_parts_scores_whole_images_as_it_saw_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(90):
        Image.fromarray(crowd(i)).save(tmp_path / f"in/{i:03d}.png")
    words = [*WORDS, "train.images=8000", "split={val: 0.4}", "size=24", "resize=tiles"]
    cut = train("ae", tmp_path / "in", words, out=tmp_path / "run")
    (tmp_path / "new").mkdir()
    for i in range(40):
        Image.fromarray(crowd(1000 + i)).save(tmp_path / f"new/usual-{i}.png")
    scratched = crowd(1041)
    scratched[20:24, 30:38] = 255
    Image.fromarray(scratched).save(tmp_path / "new/scratched.png")
    (tmp_path / "new/broken.png").write_bytes(b"nothing")
    said = score(cut.path, [str(tmp_path / "new")], tmp_path / "s.csv", maps=tmp_path / "maps").summary
    held_out = {strip_tile_suffix(name) for name in open_data(cut.recipe.data)[1].split("val").names}
    assert f"of {len(held_out)} held-out images" in said
    assert "1 skipped: broken.png" in said
    rows = read(tmp_path / "s.csv")
    assert rows[0]["image"] == "scratched.png"
    peaks = "share of held-out images' peaks"
    assert float(rows[0][peaks]) == pytest.approx(1 / (1 + len(held_out)), rel=1e-4)
    # Others are as usual as those held out, by both scores: their shares have a mean of ½, give or take 0.07.
    for column in ("share of held-out images", peaks):
        assert 0.3 < np.mean([float(row[column]) for row in rows[1:]]) < 0.7, column
    with Image.open(tmp_path / "maps/scratched.png") as heat:
        assert heat.size == (60, 40)


def test_unusable_images_to_compare_with_are_told(run: RunDir, discs: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    for i in range(6):
        Image.fromarray(disc(300 + i)).save(tmp_path / f"usual/{i}.png")
    (tmp_path / "usual/broken.png").write_bytes(b"nothing")
    said = score(run.path, [str(discs / "003.png")], tmp_path / "s.csv", beside=str(tmp_path / "usual")).summary
    assert "of 6 reference images" in said
    assert said.endswith("1 rejected (1 not an image)")


def test_neighbours_are_found_by_their_codes(run: RunDir, discs: Path, tmp_path: Path) -> None:
    result = nearest(run.path, [str(discs / "007.png")], str(discs), tmp_path / "near.png", k=4)
    assert "identical images left out (" in result.summary
    assert result.summary.endswith(f"→ {tmp_path / 'near.png'}, {tmp_path / 'near.csv'}")
    assert result.table is not None
    assert result.table["rank"] == [1, 2, 3, 4]
    assert "007.png" not in result.table["neighbor"]
    distances = result.table["distance"]
    assert distances == sorted(distances)
    assert distances[0] > 0
    rows = read(tmp_path / "near.csv")
    assert [row["neighbor"] for row in rows] == result.table["neighbor"]
    assert [float(row["distance"]) for row in rows] == pytest.approx(distances)
    with Image.open(tmp_path / "near.png") as sheet:
        assert sheet.width == 5 * (128 + 12) - 12 + 2 * 24
    # Another disc's neighbours are discs where it is.
    Image.fromarray(disc(5000)).save(tmp_path / "new.png")
    result = nearest(run.path, [str(tmp_path / "new.png")], str(discs), tmp_path / "new-near.png", k=3)
    assert "left out" not in result.summary
    assert result.table is not None
    found = [disc(int(name.split(".")[0])) for name in result.table["neighbor"]]
    apart = [np.abs(disc(5000).astype(int) - one).mean() for one in found]
    everyone = [np.abs(disc(5000).astype(int) - disc(i)).mean() for i in range(160)]
    assert np.mean(apart) < np.quantile(everyone, 0.2)


def test_copies_are_left_out_and_classes_are_named(run: RunDir, tmp_path: Path) -> None:
    for i in range(30):
        folder = tmp_path / "in" / ("low" if i < 15 else "high")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(disc(0 if i < 12 else i)).save(folder / f"{i:02d}.png")
    result = nearest(run.path, [str(tmp_path / "in/low/00.png")], str(tmp_path / "in"), tmp_path / "near.png", k=20)
    assert "identical images left out (12)" in result.summary
    assert result.table is not None
    assert sorted(result.table["neighbor"]) == sorted(
        f"{'low' if i < 15 else 'high'}/{i:02d}.png" for i in range(12, 30)
    )
    assert all(
        name.startswith(label) for name, label in zip(result.table["neighbor"], result.table["class"], strict=True)
    )


def test_inputs_are_not_written_over_and_names_may_be_alike(run: RunDir, discs: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(disc(9)).save(tmp_path / folder / "a.png")
    one = str(tmp_path / "a/a.png")
    with pytest.raises(DataError, match="would be overwritten"):
        score(run.path, [one], tmp_path / "a/a.csv")
    with pytest.raises(DataError, match="would be overwritten"):
        score(run.path, [one], tmp_path / "s.csv", maps=tmp_path / "a")
    with pytest.raises(DataError, match="would be overwritten"):
        nearest(run.path, [one], str(discs), Path(one))
    # Nothing is written for each image here, so nothing can be lost.
    assert score(run.path, [one, str(tmp_path / "b/a.png")], tmp_path / "a.csv").summary.startswith("2 images")
    (tmp_path / "b/broken.png").write_bytes(b"nothing")
    said = nearest(run.path, [str(tmp_path / "b")], str(discs), tmp_path / "near.png", k=1).summary.splitlines()
    assert said[-1].endswith("1 skipped: broken.png (not an image)")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"no images in {tmp_path / 'empty'}"):
        score(run.path, [str(tmp_path / "empty")], tmp_path / "s.csv")


def test_what_cannot_be_done_is_said(run: RunDir, discs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"use a name that ends in \.csv"):
        score(run.path, [str(discs)], tmp_path / "scores.txt")
    with pytest.raises(DataError, match=r"-k 161: there are 160 images"):
        nearest(run.path, [str(discs / "007.png")], str(discs), tmp_path / "n.png", k=161)
    gan = ["net.width=8", "net.max_width=8", "critic.width=8", "train.images=64", "batch=32", "run.pictures=0"]
    other = train("gan", discs, [*gan, "monitor.features=pixels"], out=tmp_path / "gan")
    with pytest.raises(ModelError, match="cannot reconstruct, and so cannot score"):
        score(other.path, [str(discs)], tmp_path / "s.csv")
    with pytest.raises(ModelError, match="cannot encode"):
        nearest(other.path, [str(discs / "007.png")], str(discs), tmp_path / "n.png")


def test_the_overview_shows_the_oddest_of_many_odd_ones(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 20 * (i + 1), (24, 24), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"in/{i:02d}.png")
    score(run.path, [str(tmp_path / "in")], tmp_path / "scores.csv")
    rows = read(tmp_path / "scores.csv")
    assert len({row["share of held-out images"] for row in rows[:9]}) == 1
    assert rows[0]["image"] == "11.png"
    with Image.open(tmp_path / "in/11.png") as oddest, Image.open(tmp_path / "scores.png") as overview:
        alone = picture_of_rows([[RowTile(np.asarray(oddest)[None], "11.png")]], headings=["image"])
        place = (0, 0, alone.width - 24, alone.height - 24)
        assert np.array_equal(np.asarray(overview.crop(place)), np.asarray(alone.crop(place)))


def test_pixels_that_are_drawn_are_compared_undrawn(discs: Path, tmp_path: Path) -> None:
    """Of a model of black or white pixels: chance makes no image odd, and each is recognized as itself."""
    words = ["size=24", "train.images=4000", "monitor.every=2000", "run.pictures=0", "split={val: 0.2}"]
    made = train("iwae", discs, words, out=tmp_path / "run")
    said = nearest(made.path, [str(discs / "003.png")], str(discs), tmp_path / "near.png", k=2).summary
    assert "identical images left out (1)" in said
    score(made.path, [str(discs / f"{i:03d}.png") for i in range(40)], tmp_path / "scores.csv")
    share = [float(row["share of held-out images"]) for row in read(tmp_path / "scores.csv")]
    assert 0.2 < np.mean(share) < 0.8


def test_a_model_without_its_run_is_told_what_is_usual(
    run: RunDir, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its recipe names lies on the machine of someone else; a folder here of the same name is another."""
    export(run.path, "safetensors", tmp_path / "model")
    noise = np.random.default_rng(0).integers(0, 256, (30, 24, 24), dtype=np.uint8)
    for i, place in ((i, tmp_path / folder) for i in range(30) for folder in (discs.name, "in")):
        place.mkdir(exist_ok=True)
        Image.fromarray(noise[i]).save(place / f"{i:02d}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"'model' is an exported model without .* --beside FOLDER"):
        score(Path("model"), ["in"], Path("scores.csv"))
    said = score(Path("model"), ["in"], Path("scores.csv"), beside=str(discs)).summary
    rows = read(Path("scores.csv"))
    assert "of 160 reference images" in said
    assert list(rows[0])[2::2] == ["share of reference images", "share of reference images' peaks"]
    # Beside the noise of that name they would be as usual as any.
    assert max(float(row["share of reference images"]) for row in rows) < 0.05
    found = nearest(Path("model"), ["in/00.png"], str(discs), Path("near.png"), k=2).table
    assert found is not None
    assert len(found) == 2


def test_labels_that_a_recipe_from_elsewhere_names_are_not_read(run: RunDir, discs: Path, tmp_path: Path) -> None:
    export(run.path, "safetensors", tmp_path / "model")
    says = json.loads((tmp_path / "model" / "recipe.json").read_text())
    (tmp_path / "secret.csv").write_text("path,label\n000.png,secret\n")
    says["data"] |= {"source": str(discs), "labels": str(tmp_path / "secret.csv")}
    (tmp_path / "model" / "recipe.json").write_text(json.dumps(says))
    signed = json.loads((tmp_path / "model" / "manifest.json").read_text())
    signed["recipe.json"] = hashlib.sha256((tmp_path / "model" / "recipe.json").read_bytes()).hexdigest()
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(signed))
    assert encode(tmp_path / "model", str(discs), tmp_path / "codes.npz")[1].startswith("160 codes")
