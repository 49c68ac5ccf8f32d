import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, kstest

from focaldet.checks import InputError
from focaldet.evaluation.matching import ImageResult, match_run
from focaldet.evaluation.side_bands import (
    MIN_BOXES,
    MIN_PHOTOS,
    MatchedBoxes,
    band_coverage,
    conformal_factor,
    fit_bands,
    matched_boxes,
)
from focaldet.records.calibration import BORDERS, PERCENTS, SIZES
from focaldet.records.run_files import Run
from focaldet.runtime.side_bands import at_border, cell_index, percent_of, side_bands, side_units, sizes_of
from report.run_folder import drawn_truth, jittered

DRAWS = 1000


@pytest.mark.parametrize(("count", "coverage"), [(30, 0.8), (100, 0.9), (500, 0.95)])
def test_coverage_of_independent_boxes_follows_the_beta_distribution(count, coverage):
    """Of uniform ratios a factor covers the share that it is. One box per photo: split conformal prediction."""
    rng = np.random.default_rng(0)
    covered = [conformal_factor(rng.uniform(size=count), np.arange(count), coverage) for _ in range(DRAWS)]
    rank = math.ceil((count + 1) * coverage)
    expected = beta(rank, count + 1 - rank)
    assert kstest(covered, expected.cdf).pvalue > 0.01
    assert abs(np.mean(covered) - expected.mean()) < 3 * expected.std() / math.sqrt(DRAWS)
    inside = np.mean((expected.ppf(0.025) <= covered) & (covered <= expected.ppf(0.975)))
    assert abs(inside - 0.95) < 3 * math.sqrt(0.95 * 0.05 / DRAWS)


@pytest.mark.parametrize("photos", [20, 87])
@pytest.mark.parametrize("alike", [0.3, 0.8])
def test_coverage_holds_where_boxes_of_a_photo_are_alike(photos, alike):
    """The mean over data sets of the share of new boxes that is covered. Without the design effect it is too low."""
    rng = np.random.default_rng(1)

    def draw(count):
        boxes = 1 + rng.poisson(rng.gamma(1.5, 11 / 1.5, count))
        photo, common = np.repeat(np.arange(count), boxes), rng.normal(size=count)
        own = rng.normal(size=len(photo))
        return photo, np.exp(0.6 * (math.sqrt(alike) * common[photo] + math.sqrt(1 - alike) * own))

    new = np.sort(draw(40_000)[1])
    covered, plain = [], []
    for _ in range(DRAWS):
        photo, ratios = draw(photos)
        covered.append(np.searchsorted(new, conformal_factor(ratios, photo, 0.9)) / len(new))
        plain.append(np.searchsorted(new, conformal_factor(ratios, np.arange(len(ratios)), 0.9)) / len(new))
    error = np.std(covered) / math.sqrt(DRAWS)
    assert 0.9 - 3 * error < np.mean(covered) < 0.915
    if (photos, alike) == (20, 0.8):
        assert np.mean(plain) < 0.895


def test_factor_is_missing_where_too_few_boxes_promise_the_coverage():
    assert conformal_factor(np.arange(9.0), np.arange(9), 0.9) == 8
    assert conformal_factor(np.arange(8.0), np.arange(8), 0.9) is None
    assert conformal_factor(np.zeros(0), np.zeros(0, np.int64), 0.5) is None


def test_one_photo_promises_as_much_as_its_boxes_seem_to():
    """The design effect of a single photo is unknown; so groups need several photos."""
    assert conformal_factor(np.arange(19.0), np.zeros(19, np.int64), 0.9) == 17
    assert MIN_PHOTOS > 1


def test_units_borders_and_sizes():
    boxes = [[0, 10, 20, 30], [50, 4, 200, 100]]
    assert side_units(boxes, None, "size").tolist() == [[20, 20, 20, 20], [150, 96, 150, 96]]
    assert side_units(boxes, [[1, 2, 3, 0], [1, 1, 1, 1]], "deviation").tolist() == [[1, 2, 3, 0.1], [1, 1, 1, 1]]
    assert side_units([[5, 5, 5, 5]], None, "size").tolist() == [[1, 1, 1, 1]]
    with pytest.raises(InputError, match="standard deviations"):
        side_units(boxes, None, "deviation")
    assert at_border(boxes, (100, 200)).tolist() == [[True, False, False, False], [False, False, True, True]]
    assert sizes_of(boxes).tolist() == [0, 2]
    assert sizes_of([[0, 0, 32, 32], [0, 0, 96, 95.9]]).tolist() == [1, 1]


@pytest.mark.parametrize("coverage", [0.49, 0.995, 1.0, -1.0, math.nan])
def test_coverage_outside_the_table_is_refused(coverage):
    with pytest.raises(InputError, match="coverage"):
        percent_of(coverage)


def test_every_percent_has_its_own_entry():
    assert [PERCENTS[percent_of(percent / 100)] for percent in PERCENTS] == list(PERCENTS)


def boxes_of(counts: dict[tuple[int, int, bool], int], seed: int = 0) -> MatchedBoxes:
    """As many boxes as asked for of each (class, size, border); those of a cell have ratios of their own order."""
    rng = np.random.default_rng(seed)
    parts = [
        (10.0 ** (-place) * rng.uniform(1, 2, (n, 4)), np.tile(key, (n, 1)))
        for place, (key, n) in enumerate(counts.items())
    ]
    ratios = np.concatenate([r for r, _ in parts])
    keys = np.concatenate([k for _, k in parts]).astype(np.int64)
    border = np.zeros(ratios.shape, bool)
    border[:, 0] = keys[:, 2]
    return MatchedBoxes(ratios, keys[:, 0], keys[:, 1], np.arange(len(ratios)) % 50, border)


def group_of(table, label, size, border):
    return table.groups[table.cells[int(cell_index(label, size, border))]]


def test_groups_split_where_there_are_enough_boxes_and_merge_where_not():
    few = MIN_BOXES // 2
    boxes = boxes_of({(0, 2, False): 300, (0, 0, False): few, (0, 1, False): few, (1, 0, False): 120, (1, 1, True): 30})
    table = fit_bands(boxes, ["cell", "dust"], "size").whole_box
    assert group_of(table, 0, 2, 0).name == "cell, large, inside"
    assert group_of(table, 0, 2, 0).count == 300
    assert group_of(table, 0, 0, 0) == group_of(table, 0, 1, 0)
    assert group_of(table, 0, 0, 0).name == "cell, inside, the rest"
    assert group_of(table, 0, 0, 0).count == 2 * few
    assert group_of(table, 1, 0, 0).name == "dust, small, inside"
    assert group_of(table, 1, 1, 1).name == "all"
    assert group_of(table, 1, 1, 1).count == 300 + 2 * few + 120 + 30
    assert len(table.cells) == 2 * len(SIZES) * len(BORDERS)
    assert 1 < group_of(table, 0, 2, 0).factors[40] <= 2
    assert group_of(table, 1, 0, 0).factors[40] <= 2e-3


def test_factors_never_fall_as_the_coverage_rises():
    table = fit_bands(boxes_of({(0, 0, False): 400, (0, 1, True): 200}), ["cell"], "size").each_side
    for group in table.groups:
        known = [f for f in group.factors if f is not None]
        assert len(known) > 40
        assert (np.diff(known) >= 0).all()


def test_sides_at_the_border_are_a_group_of_their_own():
    boxes = boxes_of({(0, 0, True): 200})
    ratios = boxes.ratios.copy()
    ratios[:, 0] *= 1e-3
    bands = fit_bands(replace(boxes, ratios=ratios), ["cell"], "size")
    assert group_of(bands.each_side, 0, 0, 1).factors[40] < 2e-3 < group_of(bands.each_side, 0, 0, 0).factors[40]
    assert group_of(bands.whole_box, 0, 0, 1).factors[40] > 1


def test_too_few_boxes_or_photos_give_no_bands():
    assert fit_bands(boxes_of({(0, 0, False): MIN_BOXES - 1}), ["cell"], "size") is None
    boxes = boxes_of({(0, 0, False): MIN_BOXES})
    assert fit_bands(boxes, ["cell"], "size") is not None
    assert fit_bands(replace(boxes, photo=boxes.photo % (MIN_PHOTOS - 1)), ["cell"], "size") is None


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[ImageResult]:
    folder = tmp_path_factory.mktemp("drawn")
    truth = drawn_truth(folder / "photos", ["cell"], num_images=300)
    truth["annotations"] = [a for a in truth["annotations"] if a["bbox"][1] + a["bbox"][3] < 110]
    truth["images"] = truth["images"][:10]
    many = {"images": [], "annotations": []}
    for _ in range(60):
        for image in truth["images"]:
            many["images"].append(image | {"id": len(many["images"])})
            many["annotations"] += [
                a | {"image_id": len(many["images"]) - 1, "id": len(many["annotations"]) + i + 1}
                for i, a in enumerate(a for a in truth["annotations"] if a["image_id"] == image["id"])
            ]
    truth |= many
    return match_run(Run(folder, truth=truth, predictions=jittered(truth, seed=0)))


@pytest.mark.parametrize("scale", ["deviation", "size"])
@pytest.mark.parametrize("whole_box", [True, False])
def test_bands_of_one_half_of_the_photos_cover_the_other_as_promised(results, scale, whole_box):
    here, there = results[::2], results[1::2]
    bands = fit_bands(matched_boxes(here, [0.3], scale), ["cell"], scale)
    widths = {}
    for coverage in (0.8, 0.9, 0.95):
        inside, total, width = band_coverage(there, [0.3], bands, coverage, whole_box=whole_box)
        assert total > 300
        assert abs(inside / total - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / total * 2)
        widths[coverage] = width.mean()
    assert widths[0.8] < widths[0.9] < widths[0.95]


def test_deviations_that_know_the_error_make_narrower_bands(results):
    widths = {}
    for scale in ("deviation", "size"):
        bands = fit_bands(matched_boxes(results[::2], [0.3], scale), ["cell"], scale)
        widths[scale] = band_coverage(results[1::2], [0.3], bands, 0.9)[2].mean()
    assert widths["deviation"] < 0.8 * widths["size"]


def test_band_is_around_the_side_and_within_the_photo():
    bands = fit_bands(boxes_of({(0, 0, False): 400}), ["cell"], "deviation")
    low, high = side_bands(bands, 0.9, [[4, 5, 30, 40]], [0], [[5, 1, 1, 60]], (60, 80))
    factor = bands.whole_box.groups[0].factors[40]
    assert low[0].tolist() == pytest.approx([0, 5 - factor, 30 - factor, 0])
    assert high[0].tolist() == pytest.approx([4 + 5 * factor, 5 + factor, 30 + factor, 60])


def test_band_that_cannot_be_promised_is_the_whole_photo():
    bands = fit_bands(boxes_of({(0, 0, False): MIN_BOXES}), ["cell"], "size")
    group = replace(bands.whole_box.groups[0], factors=(None,) * len(PERCENTS))
    table = replace(bands.whole_box, groups=(group,) * len(bands.whole_box.groups))
    low, high = side_bands(replace(bands, whole_box=table), 0.9, [[4, 5, 30, 40]], [0], None, (60, 80))
    assert low.tolist() == [[0, 0, 0, 0]]
    assert high.tolist() == [[80, 60, 80, 60]]


def test_no_boxes_have_no_bands():
    bands = fit_bands(boxes_of({(0, 0, False): 400}), ["cell"], "deviation")
    low, high = side_bands(bands, 0.9, np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)), (60, 80))
    assert low.shape == high.shape == (0, 4)
