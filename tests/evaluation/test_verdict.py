from __future__ import annotations

import math

import pytest

from ectype.evaluation.monitor import Monitor, Verdict
from ectype.evaluation.sample_monitor import RealReference
from ectype.evaluation.training_progress import TrainingProgress
from ectype.evaluation.verdict import decide_verdict, verdict_function

REAL = {
    "fd_classifier": 0.2,
    "recall": 0.95,
    "coverage": 0.96,
    "vendi_ratio": 1.0,
    "lost_clusters": 0.0,
    "duplicates": 0.005,
    "coverage_pixels": 0.95,
    "vendi_ratio_pixels": 1.0,
    "min_group_coverage": 0.9,
    "authenticity": 0.6,
}
REFERENCE = {name: RealReference(value, 0.02) for name, value in REAL.items()}
GOOD = {
    **REAL,
    "fd_classifier": 1.0,
    "coverage": 0.8,
    "authenticity": 0.7,
    "closer_to_training": 0.5,
    "membership_z": 0.3,
}


def look(**changes: float) -> dict[str, float]:
    return {**GOOD, **changes}


def verdict(*before: dict[str, float], **changes: float) -> Verdict:
    return decide_verdict(look(**changes), REFERENCE, before or None)


def test_a_good_generator_is_healthy() -> None:
    assert verdict().name == "healthy"
    assert (
        verdict(
            look(fd_classifier=1.1), look(fd_classifier=1.0), look(fd_classifier=0.99), look(fd_classifier=1.0)
        ).name
        == "healthy"
    )


@pytest.mark.parametrize(
    "changes, name, said",
    [
        (
            {"coverage": 0.05, "recall": 0.0, "vendi_ratio": 0.2},
            "collapsed",
            "recall 0.00, real images 0.95; coverage 0.05",
        ),
        (
            {"duplicates": 0.9, "recall": 0.1, "coverage": 0.2},
            "collapsed",
            "90% of samples are nearly identical to another",
        ),
        (
            {"lost_clusters": 0.5, "vendi_ratio": 0.2, "recall": 0.1},
            "collapsed",
            "clusters with 50% of the real images",
        ),
        ({"lost_clusters": 0.5, "duplicates": 0.7}, "losing modes", "clusters with 50% of the real images"),
        ({"vendi_ratio": 0.2, "vendi_ratio_pixels": 0.2, "recall": 0.1}, "losing modes", "Vendi ratio 0.20"),
        # Many kinds of images, of which the features of one space say that they are poor.
        ({"coverage": 0.53, "coverage_pixels": 0.97, "recall": 0.18}, "losing modes", "recall 0.18"),
        ({"coverage": 0.05, "recall": 0.0}, "losing modes", "coverage 0.05"),
        ({"coverage": 0.05, "coverage_pixels": 0.05, "lost_clusters": 0.5}, "losing modes", "clusters with 50%"),
        ({"duplicates": 0.9}, "losing modes", "90% of samples are nearly identical to another"),
        ({"lost_clusters": 0.2}, "losing modes", "clusters with 20%"),
        ({"coverage_pixels": 0.4}, "losing modes", "coverage (pixels) 0.40"),
        ({"min_group_coverage": 0.1}, "losing modes", "lowest coverage of a group 0.10"),
        ({"vendi_ratio": 0.5}, "losing modes", "Vendi ratio 0.50"),
        ({"authenticity": 0.1}, "memorising or shrunken", "authenticity 0.10, real images 0.60"),
        (
            {"authenticity": 0.3, "membership_z": 6.0, "membership_auc": 0.8},
            "memorising",
            "nearer to a sample than held-out images in 80% of pairs, not in half; authenticity 0.30, real images 0.60",
        ),
        ({"fd_classifier": math.nan}, "collapsed", "no finite distance"),
    ],
)
def test_each_sign_has_its_verdict_and_evidence(changes: dict[str, float], name: str, said: str) -> None:
    found = decide_verdict({**GOOD, **changes}, REFERENCE)
    assert found.name == name
    assert said in found.evidence


def test_a_difference_too_small_to_matter_is_no_copying_however_certain() -> None:
    assert decide_verdict({**GOOD, "membership_z": 6.0, "membership_auc": 0.52}, REFERENCE).name == "healthy"
    assert decide_verdict({**GOOD, "membership_z": 2.0, "membership_auc": 0.6}, REFERENCE).name == "healthy"


def test_real_images_say_how_near_training_images_are_without_memorization() -> None:
    # Related images are in one split, so that training images are nearer to each other than to held-out images.
    grouped = {**REFERENCE, "membership_auc": RealReference(0.7, 0.004)}
    for auc, name in ((0.65, "healthy"), (0.72, "healthy"), (0.8, "memorising")):
        found = decide_verdict({**GOOD, "membership_z": (auc - 0.5) / 0.018, "membership_auc": auc}, grouped)
        assert found.name == name, auc
    assert "in 80% of pairs, of other real images in 70%" in found.evidence


def test_a_generator_that_still_learns_is_not_blamed() -> None:
    poor = {"coverage": 0.1, "lost_clusters": 0.6, "recall": 0.3}
    before = [look(fd_classifier=value, **poor) for value in (40, 30, 22, 17)]
    assert decide_verdict(look(fd_classifier=12, **poor), REFERENCE, before).name == "learning"
    assert decide_verdict(look(fd_classifier=16.5, **poor), REFERENCE, before[1:]).name == "learning"
    stuck = [look(fd_classifier=17, **poor)] * 4
    assert decide_verdict(look(fd_classifier=17, **poor), REFERENCE, stuck).name == "losing modes"
    assert decide_verdict(look(fd_classifier=40, **poor), REFERENCE, []).name == "learning"
    assert decide_verdict(look(fd_classifier=40, **poor), REFERENCE).name == "losing modes"
    assert "12" in decide_verdict(look(fd_classifier=12, **poor), REFERENCE, before).evidence


def test_a_run_that_ends_has_the_verdict_of_an_evaluation_of_its_samples() -> None:
    """While it goes on, a generator that lacks something may be learning; at its end it just lacks it."""
    falling, level = [40, 30, 22, 17], [12.5, 12.1, 12.6, 12.2]
    for poor, name in (
        ({"coverage": 0.1, "recall": 0.5}, "losing modes"),
        ({"lost_clusters": 0.2}, "losing modes"),
        ({"coverage": 0.1, "recall": 0.0, "vendi_ratio": 0.2}, "collapsed"),
    ):
        last = look(fd_classifier=12, **poor)
        for distances, updates in ((falling, 300), (level, 300), (falling, 5000), (level, 5000)):
            monitor = Monitor(every=100, patience=None, floor=0.2)
            for place, value in enumerate(distances, 1):
                monitor.record(place * 100, look(fd_classifier=value, **poor))
            monitor.seen, monitor.updates = 500, updates
            during = verdict_function(REFERENCE)(last, monitor)
            monitor.is_last_check = True
            ended = verdict_function(REFERENCE)(last, monitor)
            checks = [(100 * place, value) for place, value in enumerate([*distances, 12], 1)]
            training = TrainingProgress(updates, checks, is_distance=True, floor=0.2, state="finished")
            fresh = decide_verdict(last, REFERENCE, training=training, ended=True)
            assert ended == fresh
            excused = updates == 300 or (distances is falling and name != "collapsed")
            assert fresh.name == ("undertrained" if excused else name)
            assert during.name == ("learning" if updates == 300 or distances is falling else name)


def test_a_generator_that_does_not_change_is_not_learning() -> None:
    """One noise image, check after check."""
    dead = look(fd_classifier=138.01, coverage=0.0, recall=0.0, vendi_ratio=0.05, duplicates=1.0)
    monitor = Monitor(every=6400, patience=None, floor=0.2, stop_on_fatal=True)
    names = []
    while not monitor.done:
        monitor.seen, monitor.updates = monitor.seen + 6400, monitor.updates + 100
        verdict = verdict_function(REFERENCE)(dead, monitor)
        monitor.record(monitor.seen, dead, verdict)
        names.append(verdict.name)
    assert names == ["learning", "collapsed", "collapsed"]
    assert monitor.fatal == "collapsed"
    assert "no longer change" in verdict.evidence
    training = TrainingProgress(300, monitor.history, is_distance=True, floor=0.2, state="finished")
    assert decide_verdict(dead, REFERENCE, training=training, ended=True).name == "collapsed"
    good = TrainingProgress(300, [(100, 0.3), (200, 0.3), (300, 0.3)], is_distance=True, floor=0.2)
    assert decide_verdict(GOOD, REFERENCE, training=good, ended=True).name == "healthy"


@pytest.mark.parametrize(
    "variance, updates, name", [(0.0, 300, "collapsed"), (0.0, 20, "learning"), (0.02, 300, "learning")]
)
def test_a_generator_that_outputs_one_image_whatever_its_input_is_not_learning(
    variance: float, updates: int, name: str
) -> None:
    """Its output may still change from check to check."""
    monitor = Monitor(every=100, patience=None, floor=0.2, updates=updates, seen=200)
    alike = {"coverage": 0.0, "recall": 0.0, "duplicates": 1.0, "sample_variance": variance}
    monitor.record(100, look(fd_classifier=90, **alike))
    found = verdict_function(REFERENCE)(look(fd_classifier=80, **alike), monitor)
    assert found.name == name
    assert ("all samples are the same image" in found.evidence) == (name == "collapsed")


def test_samples_of_a_model_that_was_trained_too_little_are_not_called_collapsed() -> None:
    """An autoencoder is monitored by its loss; that PCA beats it says that it is not there yet."""
    alike = look(coverage=0.0, recall=0.0, vendi_ratio=0.05, duplicates=1.0)
    training = TrainingProgress(93, [(2976, 40.0)], state="finished")
    found = decide_verdict(alike, REFERENCE, training=training, ended=True)
    assert found.name == "undertrained"
    assert found.evidence.startswith("there were only 93 updates; recall 0.00")
    assert decide_verdict(alike, REFERENCE, training=training, below="", ended=True).name == "collapsed"
    assert decide_verdict(GOOD, REFERENCE, training=training, ended=True).name == "healthy"
    copied = look(membership_z=6.0, membership_auc=0.8)
    assert decide_verdict(copied, REFERENCE, training=training, ended=True).name == "memorising"


def test_the_monitor_says_which_check_is_the_last() -> None:
    monitor = Monitor(every=100, patience=None, updates=5000)
    poor = look(fd_classifier=3.0, coverage=0.1, recall=0.0, vendi_ratio=0.1)
    verdict = verdict_function(REFERENCE)
    assert verdict(poor, monitor).name == "learning"
    monitor.is_last_check = True
    assert verdict(poor, monitor).name == "collapsed"


def test_what_was_there_and_is_gone_is_seen_however_good_the_rest_is() -> None:
    """Coverage of .6 is fine for one that never had more, and a loss for one that had .8."""
    had = [look(fd_classifier=2.0), look(fd_classifier=1.2), look(fd_classifier=1.0, coverage=0.8)]
    found = decide_verdict(look(fd_classifier=2.0, coverage=0.62), REFERENCE, had)
    assert found.name == "losing modes"
    assert "FD-classifier 1.00 → 2.00, coverage 0.80 → 0.62" in found.evidence
    assert (
        decide_verdict(
            look(fd_classifier=1.0, coverage=0.62), REFERENCE, [look(fd_classifier=1.0, coverage=0.62)] * 5
        ).name
        == "healthy"
    )


def test_a_falling_distance_does_not_excuse_what_was_there_and_is_gone() -> None:
    """At the end of a run the first distance may be lower than at half of it while another one shows a loss."""
    had = [look(fd_classifier=2.0, fd_pixels=1.0), look(fd_classifier=1.2, fd_pixels=0.5, min_group_coverage=0.7)]
    last = look(fd_classifier=1.0, fd_pixels=0.9, min_group_coverage=0.2)
    checks = [(seen, value) for seen, value in zip((1, 2, 3, 4), (9.0, 2.0, 1.2, 1.0), strict=True)]
    for updates, name in ((5000, "losing modes"), (500, "undertrained")):
        training = TrainingProgress(updates, checks, is_distance=True, floor=0.2)
        assert training.lacks_training("below")
        assert decide_verdict(last, REFERENCE, had, training, ended=True).name == name


def test_any_distance_may_tell_what_is_lost() -> None:
    """Features of a classifier forget what varies within a class."""
    had = [look(fd_pixels=0.6, min_group_coverage=0.5), look(fd_pixels=0.5, min_group_coverage=0.7)]
    found = decide_verdict(look(fd_pixels=0.8, min_group_coverage=0.45), REFERENCE, had)
    assert found.name == "losing modes"
    assert "FD-pixels 0.50 → 0.80, lowest coverage of a group 0.70 → 0.45" in found.evidence
    assert decide_verdict(look(fd_pixels=0.55, min_group_coverage=0.5), REFERENCE, had).name == "healthy"


def test_a_worse_distance_without_less_variety_is_no_loss_of_modes() -> None:
    had = [look(fd_classifier=2.0), look(fd_classifier=1.2), look(fd_classifier=1.0)]
    assert decide_verdict(look(fd_classifier=1.5), REFERENCE, had).name == "healthy"


def test_a_loss_that_takes_most_is_a_collapse() -> None:
    had = [look(fd_classifier=2.0), look(fd_classifier=1.0)]
    found = decide_verdict(look(fd_classifier=30.0, coverage=0.05, recall=0.0, vendi_ratio=0.1), REFERENCE, had)
    assert found.name == "collapsed"
    assert "worse than it was" in found.evidence


def test_the_judge_of_a_run_looks_at_its_own_past() -> None:
    monitor = Monitor(every=100, patience=None, updates=5000)
    for seen, value in ((100, 2.0), (200, 1.0)):
        monitor.record(seen, look(fd_classifier=value))
    assert verdict_function(REFERENCE)(look(fd_classifier=3.0, coverage=0.6), monitor).name == "losing modes"
    assert verdict_function({})({}, monitor).name == "healthy"
