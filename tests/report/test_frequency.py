from types import SimpleNamespace

from focaldet.report.facts import metric_rows


def test_frequent_common_and_rare_classes_have_rows_of_their_own():
    groups = {"frequent": {"classes": 2, "AP": 0.5}, "rare": {"classes": 1, "AP": None}}
    rows = metric_rows(SimpleNamespace(evaluation={"metrics": {"AP": 0.4}, "by_frequency": groups}))
    assert [(name, value) for name, _, value in rows] == [("AP", 0.4), ("AP, frequent", 0.5), ("AP, rare", None)]
    assert rows[1][1] == "frequent classes in training (2)"
    assert len(metric_rows(SimpleNamespace(evaluation={"metrics": {"AP": 0.4}}))) == 1
