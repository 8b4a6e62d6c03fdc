"""Images that nearly repeat each other are in one split, and images that are added move no others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ectype.config.recipe import load_recipe
from ectype.config.schema import Split
from ectype.core.errors import EctypeWarning
from ectype.data.duplicate_groups import group_images
from ectype.data.near_duplicates import NearPairs
from ectype.data.packed_strings import read_strings
from ectype.data.prepare import clean, prepare
from ectype.data.prepared import Prepared
from ectype.data.sources.base import TEST, TRAIN, VAL
from ectype.data.splits import assign_splits, depends_on_duplicates
from tests.data.test_near_duplicates import saved_again, scene
from tests.data.test_prepare import config


def pairs(*rows: tuple[int, int], distances: list[float] | None = None) -> NearPairs:
    values = np.full(len(rows), 0.5) if distances is None else np.array(distances)
    return NearPairs(np.array(rows, np.int64).reshape(-1, 2), values.astype(np.float32))


def assign(names: list[str], near: NearPairs, memory: Path | None = None, **keys: float) -> dict[str, int]:
    found = assign_splits(names, np.zeros(len(names), np.uint8), Split(**keys), near, memory)  # pyright: ignore
    return dict(zip(names, found.split_ids.tolist(), strict=True))


def write(root: Path, *seeds: int, variant: int = 0) -> Path:
    """Write a scene for each seed, or the same scenes encoded again."""
    root.mkdir(exist_ok=True)
    for seed in seeds:
        image = saved_again(scene(seed), 80 + 4 * variant) if variant else scene(seed)
        Image.fromarray(image).save(root / f"{seed:03d}-{variant}.png")
    return root


def splits_of(prepared: Prepared) -> dict[str, int]:
    rows = np.flatnonzero(prepared.split_ids)
    return dict(zip(read_strings(prepared.root).take(rows), prepared.split_ids[rows].tolist(), strict=True))


def near_note(prepared: Prepared) -> str:
    return "".join(note for note in prepared.notes if "nearly repeat" in note)


# ── Groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_near_duplicates_are_in_one_split(tmp_path: Path) -> None:
    root = write(write(write(tmp_path / "images", *range(90)), *range(60), variant=1), *range(30), variant=2)
    prepared = prepare(config(root, size=32), workers=1)
    found = splits_of(prepared)
    for i in range(60):
        assert len({split for name, split in found.items() if name.startswith(f"{i:03d}-")}) == 1
    assert set(found.values()) == {TRAIN, VAL, TEST}
    assert near_note(prepared).startswith("150 images nearly repeat another, in 60 groups: each group is in one split")
    # Without near-duplicates, an image is where its name alone puts it.
    by_name = splits_of(prepare(config(root, size=32, split={"duplicates": "ignore"}), workers=1))
    assert all(found[f"{i:03d}-0.png"] == by_name[f"{i:03d}-0.png"] for i in range(90))
    assert found != by_name


def test_the_switch_and_the_rules_that_do_not_look(tmp_path: Path) -> None:
    root = write(write(tmp_path / "images", *range(40)), *range(20), variant=1)
    for split in ({"duplicates": "ignore"}, {"by": "contiguous"}, {"group": r"-(\d)"}):
        prepared = prepare(config(root, size=32, split={**split, "val": 0.1, "test": 0}), workers=1)
        assert not near_note(prepared)
        assert not (prepared.root / "near-duplicates.npz").exists()
    unassigned, named = np.zeros(6, np.uint8), np.array([1, 1, 2, 2, 3, 3], np.uint8)
    assert depends_on_duplicates(unassigned, Split())
    assert not depends_on_duplicates(named, Split())
    assert not depends_on_duplicates(unassigned, Split(val=0, test=0))
    assert depends_on_duplicates(named[:4], Split())
    assert not depends_on_duplicates(named[:4], Split(test=0))


def test_splits_that_the_source_names_are_kept() -> None:
    names = [f"{i}.png" for i in range(40)]
    given_ids = np.array([TRAIN] * 30 + [TEST] * 10, np.uint8)
    near = pairs(*((i, i + 30) for i in range(10)), *((i, i + 1) for i in range(10, 30, 2)))
    found = assign_splits(names, given_ids, Split(val=0.3), near).split_ids
    assert (found[30:] == TEST).all()
    assert set(found[:30]) == {TRAIN, VAL}
    assert all(found[i] == found[i + 1] for i in range(10, 30, 2))


def test_exactly_equal_files_are_in_one_split(tmp_path: Path) -> None:
    root = write(tmp_path / "images", *range(60))
    for i in range(60):
        shutil.copy(root / f"{i:03d}-0.png", root / f"copy of {i:03d}.png")
    prepared = prepare(config(root, size=32), workers=1)
    found = splits_of(prepared)
    assert all(found[f"{i:03d}-0.png"] == found[f"copy of {i:03d}.png"] for i in range(60))
    assert not any("also in training" in note for note in prepared.notes)


def test_a_chain_is_divided_into_groups_of_neighbors() -> None:
    """A video of 1,000 frames, of which each equals the next, still fills all splits, in blocks."""
    names = [f"frame-{i}.png" for i in range(1000)]
    near = pairs(*((i, i + 1) for i in range(999)))
    groups = group_images(np.arange(1000), near, 0.1)
    sizes = np.bincount(groups.group_of)
    assert sizes.max() == groups.max_size == 50
    assert groups.num_divided == 1
    found = assign_splits(names, np.zeros(1000, np.uint8), Split(), near)
    counts = np.bincount(found.split_ids, minlength=4)[1:]
    assert counts.min() > 0
    assert counts[0] > 600
    assert np.count_nonzero(np.diff(found.split_ids)) < 40
    assert "1 group of more than 50 images had to be divided" in found.note


def test_the_closest_pairs_of_a_large_group_stay_together() -> None:
    """40 pairs of equal images, all of which are loosely connected."""
    near = pairs(
        *((2 * i, 2 * i + 1) for i in range(40)),
        *((2 * i, 2 * i + 2) for i in range(39)),
        distances=[0.0] * 40 + [0.9] * 39,
    )
    groups = group_images(np.arange(80), near, 0.1)
    assert groups.max_size == 4
    assert all(groups.group_of[2 * i] == groups.group_of[2 * i + 1] for i in range(40))
    assert np.bincount(groups.group_of).max() <= 4


def test_images_that_are_all_equal_fill_all_splits(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(100):
        Image.new("RGB", (16, 16), (90, 90, 90)).save(tmp_path / "images" / f"{i}.png")
    with pytest.warns(EctypeWarning, match="all images are nearly equal"):
        prepared = prepare(config(tmp_path / "images"), workers=1)
    assert min(prepared.split_sizes.values()) > 0
    assert prepared.split_sizes["train"] > 50
    assert "had to be divided" in near_note(prepared)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_few_images_still_fill_all_splits(count: int) -> None:
    names = [f"{i}.png" for i in range(count)]
    near = pairs(*((i, i + 1) for i in range(count - 1)))
    assert set(assign(names, near).values()) == {TRAIN, VAL, TEST}


def test_blank_tiles_alone_make_no_near_duplicates() -> None:
    """Images of four tiles: 0 and 1 share one blank tile, 2 and 3 share three."""
    image_of = np.repeat(np.arange(20), 4)
    near = pairs((0, 4), (8, 12), (9, 13), (10, 14))
    groups = group_images(image_of, near, 0.1)
    assert groups.group_of[0] != groups.group_of[1]
    assert groups.group_of[2] == groups.group_of[3]


# ── Images that are added ────────────────────────────────────────────────────────────────────────────────────────────


def test_added_images_join_their_near_duplicates_and_move_no_others(tmp_path: Path, own_cache: Path) -> None:
    root = write(tmp_path / "images", *range(80))
    before = splits_of(prepare(config(root, size=32), workers=1))
    for variant in (1, 2):
        write(root, *range(0, 80, variant), variant=variant)
        (root / f"000-{variant}.png").rename(root / f"!{variant}.png")  # a name before all others
        prepared = prepare(config(root, size=32), workers=1)
        after = splits_of(prepared)
        assert after.items() >= before.items()
        assert all(split == after[f"{name[:3]}-0.png"] for name, split in after.items() if name[0] != "!")
        assert after[f"!{variant}.png"] == after["000-0.png"]
        assert "each group is in one split (" in near_note(prepared)
        before = after
    clean()  # removes prepared images, but not what is remembered
    assert splits_of(prepare(config(root, size=32), workers=1)) == before


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_moves_whatever_is_added(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    memory = tmp_path_factory.mktemp("memory") / "splits.npz"
    count = data.draw(st.integers(6, 40))
    edges = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda e: e[0] < e[1])
    near = data.draw(st.lists(edges, max_size=30, unique=True))
    order = data.draw(st.permutations(range(count)))
    names = [f"{order[i]:03d}.png" for i in range(count)]
    before: dict[str, int] = {}
    for number in sorted({data.draw(st.integers(4, count)), count}):
        known = pairs(*(edge for edge in near if edge[1] < number))
        after = assign(names[:number], known, memory, val=0.2, test=0.2)
        assert after.items() >= before.items()
        assert set(after.values()) == {TRAIN, VAL, TEST}
        before = after


@pytest.mark.parametrize("held_out", [VAL, TEST])
def test_an_image_between_two_splits_joins_training(tmp_path: Path, held_out: int) -> None:
    names = [f"{i}.png" for i in range(200)]
    before = assign(names, pairs(), tmp_path / "memory.npz")
    trained = next(i for i in range(200) if before[names[i]] == TRAIN)
    other = next(i for i in range(200) if before[names[i]] == held_out)
    near = pairs((trained, 200), (other, 200), (other, 201))
    more = [*names, "!between.png", "!near.png"]
    found = assign_splits(more, np.zeros(202, np.uint8), Split(), near, tmp_path / "memory.npz")
    after = dict(zip(more, found.split_ids.tolist(), strict=True))
    assert after.items() >= before.items()
    assert after["!between.png"] == after["!near.png"] == TRAIN
    assert "except 1 whose images were assigned earlier" in found.note


def test_without_memory_a_group_is_where_its_first_name_is() -> None:
    """Names that come later do not change it."""
    names = [f"{i}.png" for i in range(100)]
    alone = assign(names, pairs())
    joined = assign([*names, *(f"{i}-b.png" for i in range(100))], pairs(*((i, 100 + i) for i in range(100))))
    assert joined.items() >= alone.items()
    assert all(joined[f"{i}-b.png"] == alone[f"{i}.png"] for i in range(100))


@pytest.mark.parametrize("damage", [b"", b"nothing", "cut", "array", "keys", "order"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: bytes | str) -> None:
    names, memory = [f"{i}.png" for i in range(60)], tmp_path / "memory.npz"
    near = pairs((0, 1), (2, 3))
    fresh = assign(names, near)
    assert assign(names, near, memory) == fresh
    whole = memory.read_bytes()
    match damage:
        case bytes():
            memory.write_bytes(damage)
        case "cut":
            memory.write_bytes(whole[:-30])
        case "array":
            with memory.open("wb") as file:
                np.save(file, np.zeros(3))
        case "keys":
            with memory.open("wb") as file:
                np.savez(file, hashes=np.zeros(3))
        case _:
            with memory.open("wb") as file:
                np.savez(file, hashes=np.array([0.5, 0.1]), split_ids=np.array([7, 1], np.uint8))
    assert assign(names, near, memory) == fresh
    assert memory.read_bytes() == whole


def test_a_cache_that_cannot_be_written_remembers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    names = [f"{i}.png" for i in range(60)]
    assert assign(names, pairs((0, 1)), tmp_path / "file" / "memory.npz") == assign(names, pairs((0, 1)))


def test_each_setting_has_its_own_memory(tmp_path: Path, own_cache: Path) -> None:
    root = write(tmp_path / "images", *range(40))
    one = splits_of(prepare(config(root, size=32), workers=1))
    assert sum(split != TRAIN for split in one.values()) < 20
    half = splits_of(prepare(config(root, size=32, split={"val": 0.3, "test": 0.4}), workers=1))
    assert sum(split != TRAIN for split in half.values()) > 20
    assert len(list((own_cache.parent / "splits").glob("*.npz"))) == 2


_PREPARE = """
import sys
from ectype.data import prepare as module
from ectype.config.schema import DataConfig
print("ready", flush=True)
sys.stdin.readline()
print(module.prepare(DataConfig(source=sys.argv[1], size=32), workers=1).fingerprint)
"""


def test_two_processes_at_once_agree(tmp_path: Path, own_cache: Path) -> None:
    root = write(tmp_path / "images", *range(60))
    before = splits_of(prepare(config(root, size=32), workers=1))
    write(root, *range(60), variant=1)
    command = [sys.executable, "-c", _PREPARE, str(root)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0] for process in both]
    prepared = prepare(config(root, size=32), workers=1)
    assert outputs == [f"{prepared.fingerprint}\n"] * 2
    assert splits_of(prepared).items() >= before.items()


# ── Recipes of earlier versions ──────────────────────────────────────────────────────────────────────────────────────


def test_a_stored_recipe_of_an_earlier_version_keeps_its_splits() -> None:
    plain = load_recipe("vae").plain()
    assert plain["data"]["split"].pop("duplicates") == "together"
    old = load_recipe(plain)
    assert old.data.split.duplicates == "ignore"
    assert load_recipe(old.plain()) == old
    assert load_recipe(old.plain(), ["val=0.2"]).data.split == Split(val=0.2, duplicates="ignore")
    # A recipe that a user writes has the keys that differ from the defaults.
    assert load_recipe("vae", {"data.split": {"val": 0.2, "test": 0.2}}).data.split.duplicates == "together"
