from __future__ import annotations

import json
import math

from ectype.training.monitor import Monitor


def fed(values: list[float], **keys) -> Monitor:
    monitor = Monitor(every=100, **{"patience": 2, **keys})
    for place, value in enumerate(values, 1):
        monitor.record(place * 100, value)
    return monitor


def test_it_stops_after_patience_and_remembers_the_best() -> None:
    assert not fed([3, 2, 2.5]).done
    stopped = fed([3, 2, 2.5, 2.1])
    assert stopped.done
    assert (stopped.best, stopped.best_seen, stopped.waited) == (2, 200, 2)
    assert stopped.reason() == "no better for 2 checks, 100 images apart: the best was at 200"


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
