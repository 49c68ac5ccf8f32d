import pytest
from lines import line

from focaldet.records.study import TESTS
from focaldet.study.ladder import LADDER
from focaldet.study.summary import COMPARED, summarise
from focaldet.study.table import progress_table, result_table, time_left


@pytest.fixture
def study():
    return {
        "settings": {"minutes": 10.0},
        "rungs": [rung.row() for rung in LADDER],
        "seeds": [0, 1, 2],
        "class_names": ["cell"],
        "rare_label": 0,
        "split": "test",
        "photos": {"test": 7},
    }


def of_ap(study, before, here):
    lines = [line("atss", seed, ap) for seed, ap in enumerate(before)]
    lines += [line("atss-qfl", seed, ap) for seed, ap in enumerate(here)]
    return next(c for c in summarise(study, lines)["comparisons"] if c["number"] == "AP")


def test_rows_have_mean_and_spread_over_the_seeds(study):
    (row,) = summarise(study, [line("gfl", seed, ap) for seed, ap in ((0, 0.4), (2, 0.6))])["rows"]
    assert (row["rung"], row["title"], row["seeds"]) == ("gfl", "GFL", [0, 2])
    assert row["numbers"]["AP"] == {"values": [0.4, 0.6], "mean": 0.5, "std": pytest.approx(0.141421)}
    assert row["numbers"]["AP_small"] == {"values": [], "mean": None, "std": None}
    means = {name: spread["mean"] for name, spread in row["numbers"].items()}
    assert means["best_lost_share"] == 0.5
    assert means["best_lost_threshold_share"] == 0.25
    assert means["step_s"] == pytest.approx(0.4)
    assert (means["band_px"], means["band_size_px"]) == (25.0, 25.0)
    assert (means["background_loss_start"], means["background_gradient_end"]) == (0.9, 0.8)


def test_band_is_that_by_deviations_if_there_are_any_and_missing_in_older_lines(study):
    first, second, older = (line("gfl", seed, 0.4) for seed in range(3))
    first["bands"]["deviation"] = {"boxes": 100, "covered": 0.9, "width_px": 20.0}
    del older["bands"]
    (row,) = summarise(study, [first, second, older])["rows"]
    assert row["numbers"]["band_px"]["values"] == [20.0, 26.0]
    assert row["numbers"]["band_size_px"]["values"] == [26.0, 26.0]


def test_rows_stand_in_the_order_of_the_story_whatever_was_finished_first(study):
    rows = summarise(study, [line("gfl", 0, 0.5), line("fcos", 0, 0.4)])["rows"]
    assert [row["rung"] for row in rows] == ["fcos", "gfl"]


def test_a_clear_difference_is_told_with_its_interval(study):
    comparison = of_ap(study, [0.40, 0.41, 0.39], [0.50, 0.51, 0.49])
    assert (comparison["verdict"], comparison["difference"]) == ("higher", pytest.approx(0.1))
    assert 0 < comparison["low"] < 0.1 < comparison["high"]
    assert "AP is higher by 0.100 (95 % interval +0.077 to +0.123, 3 seeds each)" in comparison["sentence"]
    assert of_ap(study, [0.50, 0.51, 0.49], [0.40, 0.41, 0.39])["verdict"] == "lower"


def test_a_difference_within_the_spread_is_said_to_be_one(study):
    comparison = of_ap(study, [0.40, 0.45, 0.35], [0.42, 0.47, 0.36])
    assert comparison["verdict"] == "within the spread"
    assert "differs by +0.017, within the spread" in comparison["sentence"]


def test_one_seed_proves_nothing(study):
    comparison = of_ap(study, [0.1], [0.9])
    assert (comparison["verdict"], comparison["low"]) == ("unknown", None)
    assert "one seed each" in comparison["sentence"]


def test_rungs_are_compared_fold_by_fold(study):
    """Differences .02, .03, .04: se² = (1/3 + 1) .01², t = 4.303, so .03 ± .0497; fold 4 has one of the rungs."""
    study |= {"seeds": [0, 1, 2, 3], "folds": [["a"], ["b"], ["c"]]}
    comparison = of_ap(study, [0.2, 0.4, 0.6, 0.1], [0.22, 0.43, 0.64])
    assert comparison["difference"] == pytest.approx(0.03)
    assert (comparison["low"], comparison["high"]) == pytest.approx((-0.0197, 0.0797), abs=1e-4)
    assert comparison["sentence"].endswith(
        "within the spread (95 % interval -0.020 to +0.080, 3 folds), so it may be chance."
    )
    assert (
        of_ap(study, [0.2, 0.4, 0.6], [0.3, 0.5, 0.71])["verdict"] == "higher"
    )  # by far within the spread of the folds
    lines = [line(name, seed, ap + seed / 5) for name, ap in (("atss", 0.1), ("gfl", 0.2)) for seed in range(3)]
    lines += [line("fcos", seed, ap) for seed, ap in enumerate((0.2, 0.4, 0.3))]
    assert summarise(study, lines)["tied"] == {"fcos": ["atss", "gfl"], "atss": ["fcos"], "gfl": ["fcos"]}
    assert "with one fold; without a spread" in of_ap(study, [0.2], [0.3])["sentence"]


def test_a_rung_without_a_common_fold_is_not_compared(study):
    study["folds"] = [["a"], ["b"], ["c"]]
    lines = [line("atss", 0, 0.4), line("atss-qfl", 1, 0.5)]
    assert summarise(study, lines)["comparisons"] == []


def test_every_number_of_two_neighbours_is_compared(study):
    comparisons = summarise(study, [line("atss", 0, 0.4), line("atss-qfl", 0, 0.5)])["comparisons"]
    assert [c["number"] for c in comparisons] == list(COMPARED)


def test_rungs_whose_neighbour_is_missing_are_not_compared(study):
    assert summarise(study, [line("fcos", 0, 0.4), line("gfl", 0, 0.5)])["comparisons"] == []


def test_a_seed_that_diverged_counts_as_such_and_not_as_a_number(study):
    lines = [line("gfl", 0, 0.5), line("gfl", 1, None, diverged="step 3: the class loss is nan")]
    summary = summarise(study, lines)
    (row,) = summary["rows"]
    assert (row["seeds"], row["diverged"]) == ([0, 1], [1])
    assert row["numbers"]["AP"]["values"] == [0.5]
    assert "2 (1 diverged)" in result_table(study, summary)


def test_a_rung_that_only_diverged_is_not_compared(study):
    lines = [line("atss", 0, None, diverged="x"), line("atss-qfl", 0, 0.5)]
    compared = {c["number"] for c in summarise(study, lines)["comparisons"]}
    assert compared == {"background_gradient_start"}


def test_of_a_line_that_is_there_twice_the_last_counts(study):
    (row,) = summarise(study, [line("gfl", 0, 0.1), line("gfl", 0, 0.5)])["rows"]
    assert row["numbers"]["AP"]["values"] == [0.5]


def test_the_table_has_a_row_a_rung_and_the_verdicts(study):
    lines = [line(rung, seed, 0.4 + seed / 100) for rung in ("atss", "atss-qfl") for seed in range(3)]
    text = result_table(study, summarise(study, lines))
    assert [row.split()[0] for row in text.splitlines()[2:4]] == ["atss", "atss-qfl"]
    assert "0.410±0.010" in text
    assert "7 photos" in text
    assert "ATSS, quality focal loss vs. ATSS, centerness: AP differs by +0.000" in text


def test_the_tables_of_a_study_over_folds_say_so(study):
    study |= {"folds": [["a"], ["b"], ["c"]], "photos": {"fold 1": 7, "fold 2": 7, "fold 3": 6}}
    lines = [line(rung, seed, 0.4 + seed / 100) for rung in ("atss", "atss-qfl") for seed in range(3)]
    text = result_table(study, summarise(study, lines)).splitlines()
    assert text[0] == "3 folds: 20 photos; mean ± standard deviation over folds; AP as COCO defines it"
    assert text[1].split()[:2] == ["rung", "folds"]
    assert text[-2] == f"95 % interval: {TESTS['fold']}"
    rows = progress_table(study, lines[:1], {("fcos", 2): "epoch 3"})
    assert rows[0].split() == ["rung", *"fold 1 fold 2 fold 3".split()]
    assert rows[-1] == "fcos, fold 3: epoch 3"


def test_a_study_without_a_line_says_so(study):
    assert result_table(study, summarise(study, [])) == "no rung has finished yet"


def test_progress_has_a_place_for_every_rung_and_seed(study):
    rows = progress_table(study, [line("fcos", 1, 0.4)], {("atss", 1): "epoch 3, step 60"})
    fcos, atss = (next(row for row in rows if row.startswith(name)) for name in ("fcos", "atss "))
    assert fcos.split() == ["fcos", "·", "AP", "0.400", "·"]
    assert atss.split() == ["atss", "·", "running", "·"]
    assert rows[-1] == "atss, seed 1: epoch 3, step 60"


def test_the_time_left_is_that_of_the_rungs_to_come(study):
    assert time_left(study, [line("fcos", 0, 0.4)], 1) == "about 3.8 hours left"  # 23 times 10 minutes
    done = [line(rung.name, seed, 0.4) for rung in LADDER for seed in range(3)]
    assert time_left(study, done[:-2], 2) == "about 10 minutes left"
    assert time_left(study, done, 1) == ""
