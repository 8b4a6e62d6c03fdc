from __future__ import annotations

import json

from ectype.analysis.report.charts import point_chart
from ectype.analysis.report.frontier import pareto_front


def test_nothing_beats_what_is_on_the_front() -> None:
    places = [(1.0, 20.0), (2.0, 19.0), (3.0, 25.0), (3.0, 24.0), (9.0, 25.0), (0.5, 3.0)]
    assert pareto_front(places, higher=True) == [5, 0, 2]
    assert pareto_front(places, higher=False) == [5]
    assert pareto_front([(1.0, 5.0), (2.0, 4.0), (3.0, 4.5)], higher=False) == [0, 1]


def test_points_carry_names_and_intervals() -> None:
    chart = point_chart(
        "t", "c", [(1.0, 2.0), (4.0, 3.0)], [(1.5, 2.5), (None, None)], ["<a>", "b"], [(1.0, 2.0)], x="x", y="y"
    )
    front, first, second = json.loads(chart.spec)["data"]
    assert front["mode"] == "lines"
    assert first["text"] == ["&lt;a&gt;"]
    assert first["error_y"]["array"] == [0.5]
    assert second["error_y"]["array"] == [None]
