"""The results of ``benchmarks.certainty`` as Markdown."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks.provenance import provenance
from scipy.stats import binom

Measured = dict[str, Any]


def page(measured: Sequence[Measured], command: str) -> str:
    """The page; ``measured`` has one entry per method and seed, see ``measure``."""
    by_method: dict[str, list[Measured]] = {}
    for one in measured:
        by_method.setdefault(one["method"], []).append(one)
    lines = ["# Promises on photos that neither trained nor calibrated", "", f"{provenance(command)}.", ""]
    for table in (_coverage, _scores, _widths, _changes, _promises):
        lines += [*table(by_method), ""]
    return "\n".join(lines[:-1]) + "\n"


def _coverage(by_method: dict[str, list[Measured]]) -> list[str]:
    lines = [
        "Coverage of whole boxes on test, by seed, and the interval in which 95 % of binomial counts lie for as many",
        "boxes (boxes of one photo are alike, so more than 5 % may lie outside):",
        "",
        "| method | AP | promised | covered, by seed | mean | interval | seeds inside | width, px |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, seeds in by_method.items():
        for index, row in enumerate(seeds[0]["sides"]):
            rows = [one["sides"][index] for one in seeds]
            shares = [each["box_inside"] / each["box_count"] for each in rows]
            ends = [
                [binom.ppf(q, each["box_count"], row["promised"]) / each["box_count"] for q in (0.025, 0.975)]
                for each in rows
            ]
            inside = sum(low <= share <= high for share, (low, high) in zip(shares, ends, strict=True))
            cells = [method, f"{mean(one['ap'] for one in seeds):.3f}", f"{row['promised']:.0%}"]
            cells += [", ".join(f"{share:.1%}" for share in shares), f"{mean(shares):.1%}"]
            cells += [f"{mean(low for low, _ in ends):.1%} to {mean(high for _, high in ends):.1%}"]
            cells += [f"{inside} of {len(seeds)}", f"{mean(each['box_width_px'] for each in rows):.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _scores(by_method: dict[str, list[Measured]]) -> list[str]:
    lines = [
        "How far off scores are, network → calibrated, mean over the seeds. Against being right at IoU 0.5: on test",
        "with maps of val. LaECE₀ and LaACE₀ (against the IoU, at the best-F1 threshold): by cross-fitting on each",
        "split.",
        "",
        "| method | right, test | LaECE₀, val | LaECE₀, test | LaACE₀, val | LaACE₀, test |",
        "|---|---|---|---|---|---|",
    ]
    for method, seeds in by_method.items():
        pairs = [[one["error"] for one in seeds]]
        pairs += [[one[kind][split] for one in seeds] for kind in ("laece0", "laace0") for split in ("val", "test")]
        cells = [" → ".join(f"{mean(pair[k] for pair in seeds_of):.3f}" for k in (0, 1)) for seeds_of in pairs]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _widths(by_method: dict[str, list[Measured]]) -> list[str]:
    lines = [
        "Mean width of the 90 % band of a whole box, by cross-fitting, mean over the seeds (by seed):",
        "",
        "| method | by standard deviations, val | test | by the size of the box, val | test |",
        "|---|---|---|---|---|",
    ]
    for method, seeds in by_method.items():
        cells = []
        for scale in ("deviation", "size"):
            for split in ("val", "test"):
                widths = [width for one in seeds if (width := one["widths"][split].get(scale)) is not None]
                each = ", ".join(f"{width:.1f}" for width in widths)
                cells.append(f"{mean(widths):.1f} px ({each})" if widths else "")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _changes(by_method: dict[str, list[Measured]]) -> list[str]:
    lines = [
        "Changed copies of the test photos: whether `--check-shift` warns, and what became of the 90 % bands, of",
        "recall at the best-F1 thresholds and of the calibrated scores (mean over the seeds):",
        "",
        "| method | photos | warned | p, by seed | covered | recall | score error |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, seeds in by_method.items():
        for name in seeds[0]["changed"]:
            rows = [one["changed"][name] for one in seeds]
            cells = [method, name, f"{sum(row['warned'] for row in rows)} of {len(rows)}"]
            cells += [", ".join(f"{row['p']:.3f}" for row in rows), f"{mean(row['covered'] for row in rows):.1%}"]
            cells += [f"{mean(row['recall'] for row in rows):.1%}", f"{mean(row['error'] for row in rows):.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _promises(by_method: dict[str, list[Measured]]) -> list[str]:
    lines = ["Precision and recall on test at the thresholds that promise 90 % on val with 90 % confidence:", ""]
    for method, seeds in by_method.items():
        lines += [
            f"- {method}, seed {one['seed']}: {'; '.join(one['kept']) or 'none can be promised'}" for one in seeds
        ]
    return lines
