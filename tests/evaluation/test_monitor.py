from __future__ import annotations

import json
import math

from ectype.evaluation.monitor import Monitor, Verdict


def fed(values: list[float], **keys) -> Monitor:
    monitor = Monitor(every=100, **{"patience": 2, **keys})
    for place, value in enumerate(values, 1):
        monitor.record(place * 100, {"loss": value})
    return monitor


def test_it_stops_after_patience_and_remembers_the_best() -> None:
    assert not fed([3, 2, 2.5]).done
    stopped = fed([3, 2, 2.5, 2.1])
    assert stopped.done
    assert (stopped.best, stopped.best_seen, stopped.checks_since_minimum) == (2, 200, 2)
    assert stopped.reason() == (
        "the monitored value has had no new minimum for 2 checks, 100 images apart: the best was 2, at 200 images"
    )


def test_it_knows_beforehand_which_check_ends_the_run() -> None:
    monitor = fed([3, 2, 2.5])
    state = monitor.state()
    assert monitor.ends_with(400, {"loss": 2.1})
    assert not monitor.ends_with(400, {"loss": 1.9})
    assert not monitor.ends_with(400, {"loss": 2.1}, "waiting")
    assert monitor.state() == state


def test_patience_can_last_for_a_share_of_the_run() -> None:
    early = [9, 8, 7, 6]
    assert fed([*early, 7, 7]).done
    assert not fed([*early, 7, 7], stretch=1).done
    assert not fed([*early, 7, 7, 7], stretch=1).done
    doubled = fed([*early, 7, 7, 7, 7], stretch=1)
    assert doubled.done
    assert doubled.best_seen == 400
    assert "100 images apart, while the images seen grew 2-fold: the best was 6" in doubled.reason()
    assert not fed([9, 8, 8, 8, 7.5, 8, 8, 8], stretch=1).done  # a late minimum asks for a longer wait
    assert fed([9, 10, 10], stretch=1).done  # patience counts where it is longer
    assert not fed([9, 10], stretch=1).done
    assert not fed([9, 10, 10, 10], patience=None, stretch=1).done
    assert fed([math.nan, math.nan], stretch=1).done


def test_a_distance_that_falls_as_a_power_is_not_stopped_and_a_level_one_is() -> None:
    falling = [count**-0.5 for count in range(1, 200)]
    levelled = [min(count, 30) ** -0.5 for count in range(1, 200)]
    never, once = [
        next((n for n in range(1, 200) if fed(series[:n], patience=5, stretch=1, min_delta=0.005).done), None)
        for series in (falling, levelled)
    ]
    assert never is None
    assert once is not None
    assert 50 < once <= 60


def test_a_difference_too_small_is_none() -> None:
    assert fed([3, 2.99, 2.98], min_delta=0.1).done
    assert not fed([3, 2.99, 2.5], min_delta=0.1).done


def test_what_is_no_number_is_never_the_best() -> None:
    monitor = fed([math.nan, math.inf])
    assert monitor.best_seen is None
    assert monitor.done
    assert not fed([math.nan], patience=None).done


def test_it_is_due_once_per_interval() -> None:
    monitor = fed([])
    assert [seen for seen in range(32, 400, 32) if monitor.due(seen - 32, seen)] == [128, 224, 320]


def test_state_survives_json() -> None:
    monitor = fed([3, 2, math.inf])
    assert Monitor.restored(json.loads(json.dumps(monitor.state()))) == monitor


def test_small_steps_add_up_to_a_new_minimum() -> None:
    assert not fed([3, 2.95, 2.91, 2.87, 2.83], min_delta=0.05).done


def test_noise_does_not_set_a_minimum_when_the_measure_is_averaged() -> None:
    noisy = [4, 3, 2, 1.0, 2, 2, 2]
    assert fed(noisy, patience=3).best_seen == 400
    smooth = fed([4, 4, 1, 4, 3, 3, 3], smoothing=3, patience=9)
    assert smooth.best == 8 / 3
    assert smooth.best_seen == 500


def test_a_fatal_verdict_ends_a_run_that_wants_it_when_two_checks_agree() -> None:
    def judged(*verdicts: str, halts: bool = True) -> Monitor:
        monitor = Monitor(every=100, patience=None, stop_on_fatal=halts)
        for place, name in enumerate(verdicts, 1):
            monitor.record(place * 100, {"distance": 1.0}, Verdict(name, "as seen"))
        return monitor

    assert judged("healthy", "collapsed", "collapsed").fatal == "collapsed"
    assert judged("healthy", "collapsed", "collapsed").done
    assert judged("healthy", "collapsed", "collapsed").healthy_seen == 100
    assert judged("collapsed").fatal is None
    assert judged("collapsed", "memorising").fatal is None
    assert judged("losing modes", "losing modes").fatal is None
    assert judged("collapsed", "collapsed", halts=False).fatal is None
    assert "collapsed at 2 checks in a row" in judged("collapsed", "collapsed").reason()
