"""Adding files does not change which files are held out, and groups are never divided."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ectype.config.schema import Split
from ectype.core.errors import DataError
from ectype.data.sources.base import TEST, TRAIN, VAL
from ectype.data.splits import assign_splits


def split(names: list[str], source_split_ids: list[int] | None = None, **keys: object) -> dict[str, int]:
    given = np.array(source_split_ids or [0] * len(names), np.uint8)
    return dict(zip(names, assign_splits(names, given, Split(**keys)).split_ids.tolist(), strict=True))


names = st.lists(st.text("abcdef0123456789/", min_size=1, max_size=8), min_size=3, max_size=60, unique=True)
shares = st.floats(0.01, 0.45)


@given(names, shares, shares, st.sampled_from(["hash", "contiguous"]))
def test_no_split_is_empty(names, val, test, by):
    assert set(split(names, val=val, test=test, by=by).values()) == {TRAIN, VAL, TEST}


@given(names, names, shares, shares)
def test_adding_files_moves_no_other(some, more, val, test):
    """Except for the file that an empty split had taken: at most one for each of the three splits."""
    before = split(some, val=val, test=test)
    after = split(list(dict.fromkeys([*some, *more])), val=val, test=test)
    assert sum(before[name] != after[name] for name in some) <= 3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_moves_once_all_splits_have_their_own(seed):
    some = [f"{seed}-{i}.png" for i in range(200)]
    before = split(some)
    assert split([*some, *(f"{seed}-more-{i}" for i in range(200))]).items() >= before.items()
    assert split(some[::-1]) == before


def test_shares_are_kept_about():
    counts = np.bincount(list(split([f"{i}.jpg" for i in range(20_000)], val=0.2, test=0.1).values()))
    np.testing.assert_allclose(counts[1:] / 20_000, [0.7, 0.2, 0.1], atol=0.01)


def test_a_share_of_nought_is_none():
    assert set(split([f"{i}" for i in range(50)], val=0, test=0).values()) == {TRAIN}
    assert set(split([f"{i}" for i in range(50)], val=0.1, test=0).values()) == {TRAIN, VAL}
    assert set(split(["only"], val=0, test=0).values()) == {TRAIN}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=10, unique=True),
    st.sampled_from(["hash", "contiguous"]),
)
def test_groups_stay_together(pairs, by):
    assume(len({patient for patient, _ in pairs}) >= 3)
    found = split([f"{scan}/patient-{patient}-{scan}.png" for patient, scan in pairs], by=by, group=r"patient-(\d+)")
    for patient in range(10):
        assert len({split_id for name, split_id in found.items() if f"patient-{patient}-" in name}) <= 1
    assert set(found.values()) == {TRAIN, VAL, TEST}


def test_groups_hold_for_the_parts_of_images():
    """The pattern applies to file names, without the suffixes of tiles."""
    names = [f"{scan}_s{i}.png#{top},0" for i in range(12) for scan in "xy" for top in (0, 32)]
    found = split(names, group=r"_(s[0-9]+)\.png$")
    for i in range(12):
        assert len({split_id for name, split_id in found.items() if f"_s{i}.png" in name}) == 1
    assert set(found.values()) == {TRAIN, VAL, TEST}


def test_group_of_skin_tones():
    base = [f"1f44{i}" for i in range(10)]
    found = split([f"{b}{tone}.png" for b in base for tone in ("", "-1f3fb", "-1f3ff")], group=r"^[0-9a-f]+")
    assert all(len({found[f"{b}{tone}.png"] for tone in ("", "-1f3fb", "-1f3ff")}) == 1 for b in base)


def test_files_outside_of_the_pattern_are_groups_of_their_own():
    found = split([f"x{i}" for i in range(30)], group="patient-([0-9]+)")
    assert found == split([f"x{i}" for i in range(30)])


def test_both_unicode_forms_of_a_name_share_a_split():
    names = [f"é{i}-à.png" for i in range(60)]
    forms = [[unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    for keys in ({}, {"group": unicodedata.normalize("NFD", "^é[0-9]")}):
        one, two = (list(split(each, **keys).values()) for each in forms)
        assert one == two
    assert len(set(split(names, group="^é[0-9]").values())) == 3


def test_contiguous_slabs_in_natural_order():
    found = split([f"slice-{i}.png" for i in range(100)], by="contiguous", val=0.2, test=0.1)
    assert [found[f"slice-{i}.png"] for i in range(100)] == [TRAIN] * 70 + [VAL] * 20 + [TEST] * 10


def test_given_splits_are_kept_and_missing_ones_taken_from_train():
    names = [f"train/{i}" for i in range(60)] + [f"test/{i}" for i in range(10)]
    found = split(names, [TRAIN] * 60 + [TEST] * 10)
    assert all(found[name] == TEST for name in names[60:])
    assert {found[name] for name in names[:60]} == {TRAIN, VAL}
    both = split(names, [TRAIN] * 60 + [VAL] * 10, test=0.1)
    assert {both[name] for name in names[:60]} == {TRAIN, TEST}
    only = split(names, [TRAIN] * 70)
    assert set(only.values()) == {TRAIN, VAL, TEST}


@pytest.mark.parametrize(
    "names, keys, words",
    [
        (["a", "b"], {}, ("2 images", "train + val + test", "give at least 3, or set split.test=0.")),
        (["a"], {}, ("1 images", "give at least 3.")),
        (["a"], {"test": 0}, ("train + val", "give at least 2.")),
        (["p1-a", "p1-b", "p2-a"], {"group": "p[0-9]"}, ("2 groups", "finer pattern")),
        (["a", "b", "c"], {"group": "("}, ("not a valid regular expression",)),
        (["a", "b", "c"], {"val": 0.6, "test": 0.5}, ("leave no images for training",)),
    ],
)
def test_impossible_splits(names, keys, words):
    with pytest.raises(DataError) as caught:
        split(names, **keys)
    assert all(word in str(caught.value) for word in words), caught.value


def test_only_a_test_folder():
    with pytest.raises(DataError, match="0 images to train on"):
        split(["a", "b"], [TEST, TEST])


def test_a_pattern_that_backtracks_is_refused_in_seconds() -> None:
    names = [f"{'a' * 60}{i}!.png" for i in range(8)]
    with pytest.raises(DataError, match=r"split.group='\(a\|aa\)\+\$' takes too long to search in 'aaaa"):
        split(names, group="(a|aa)+$")
    assert len(split([f"patient{i % 9}-{i}.png" for i in range(90)], group=r"patient(\d+)")) == 90
