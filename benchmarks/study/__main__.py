"""python -m benchmarks.study STUDY: compare a finished study with the published claims.

Writes benchmarks/results/study.md, with a table of the rungs and a comparison of each claim with the measurement, and
copies study.json, study.jsonl and summary.json to benchmarks/results/study/. Paths in these files are relative to the
parent of the checkout.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.provenance import provenance

from focaldet.files import write_json, write_text
from focaldet.records.study import Line, Row, Spread, Study, Summary
from focaldet.records.study_claims import CHAPTER_CLAIMS, DIVERGED, Claim
from focaldet.study.folder import read_lines, read_study
from focaldet.study.summary import compare, summarise

RESULTS = Path(__file__).parents[1] / "results"

MIN_AP = 0.01
"""Below this AP, a detector has learned nothing."""


FOCAL, GFL = "Focal Loss", "Generalized Focal Loss"

CLAIMS = (
    Claim(
        "Without the prior, cross entropy does not train",
        f"diverges ({FOCAL}, section 4.1)",
        "retinanet-bce-no-prior",
        "retinanet-bce-no-prior",
        DIVERGED,
    ),
    Claim(
        "The prior alone makes it train",
        f"30.2 AP ({FOCAL}, section 5.1)",
        "retinanet-bce",
        "retinanet-bce-no-prior",
        "AP",
    ),
    Claim(
        "Focal loss beats cross entropy",
        f"34.0 against 30.2 AP, and 31.1 with the best α ({FOCAL}, tables 1a, 1b)",
        "retinanet-focal",
        "retinanet-bce",
        "AP",
    ),
    Claim(
        "It shifts weight away from the background",
        f"most of the loss of easy background disappears (γ 2; {FOCAL}, figure 4)",
        "retinanet-focal",
        "retinanet-bce",
        "background_gradient_end",
        "lower",
    ),
    Claim(
        "Points and centerness do as well as anchors, or better",
        "38.6 against 35.9 AP (FCOS, table 3, with its later additions)",
        "fcos",
        "retinanet-focal",
        "AP",
    ),
    Claim(
        "ATSS chooses better positives",
        "39.2 against 37.8 AP, and 38.6 with centre sampling, on FCOS (ATSS, section 4)",
        "atss",
        "fcos",
        "AP",
    ),
    Claim(
        "A joint score has a higher AP than class × centerness",
        f"39.9 against 39.2 AP ({GFL}, tables 1a, 3)",
        "atss-qfl",
        "atss",
        "AP",
    ),
    Claim(
        "because it ranks boxes by their quality",
        f"no number ({GFL}, section 1)",
        "atss-qfl",
        "atss",
        "rank_score",
    ),
    Claim(
        "Distributions with distribution focal loss improve on it",
        f"40.2 against 39.9 AP ({GFL}, table 3)",
        "gfl",
        "atss-qfl",
        "AP",
    ),
    Claim(
        "mainly through better localisation",
        f"43.4 against 43.0 AP75 ({GFL}, tables 1a, 3)",
        "gfl",
        "atss-qfl",
        "AP75",
    ),
    Claim(
        "GFL beats ATSS",
        f"40.2 against 39.2 AP ({GFL}, table 3)",
        "gfl",
        "atss",
        "AP",
    ),
    Claim(
        "The shape of the distributions predicts the quality",
        "41.0 against 40.2 AP (GFocalV2's README; GFocal's README)",
        "gflv2",
        "gfl",
        "AP",
    ),
    Claim(
        "so it ranks boxes better",
        "no number (GFocalV2's README)",
        "gflv2",
        "gfl",
        "rank_score",
    ),
)

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "rare_AP": "AP, rarest class",
    "rank_score": "rank correlation",
    "best_lost_threshold_share": "better box lost",
    "oracle_AP": "AP with true IoU",
    "background_gradient_start": "background, start",
    "background_gradient_end": "background, end",
    "deviation_correlation_relative": "std. deviation and error",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    parent = str(Path(__file__).resolve().parents[3])
    files = read_study(args.study), read_lines(args.study)
    study, lines = json.loads(json.dumps(files).replace(parent, ".."))
    summary = summarise(study, lines)
    write_json(args.output / "study" / "study.json", study)
    write_text(args.output / "study" / "study.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(args.output / "study" / "summary.json", summary)
    write_text(args.output / "study.md", "\n".join(page(study, lines, summary)) + "\n")


def page(study: Study, lines: Sequence[Line], summary: Summary) -> Iterable[str]:
    settings = study["settings"]
    yield "# The study on BCCD"
    yield ""
    yield f"{provenance('python -m benchmarks.study')}, for the study: {study['description']}."
    budget = f"{settings['epochs']} epochs" if settings["epochs"] else f"{settings['minutes']:g} minutes"
    yield f"Each rung was trained for {budget} with {settings['backbone']} and measured on the"
    yield f"{study['photos'][study['split']]} photos of the {study['split']} split; mean ± standard deviation over"
    yield f"seeds. {len(lines)} of {len(study['rungs']) * len(study['seeds'])} runs are done. The commit above wrote"
    yield "this page; docs/study.md lists the commits of the training runs."
    yield ""
    yield "| rung | seeds | " + " | ".join(COLUMNS.values()) + " |"
    yield "|---" * (2 + len(COLUMNS)) + "|"
    for row in summary["rows"]:
        yield (
            f"| {row['title']} | {len(row['seeds'])} | "
            + " | ".join(cell(row["numbers"][number]) for number in COLUMNS)
            + " |"
        )
    yield ""
    yield "| claim | published, on COCO | here | |"
    yield "|---|---|---|---|"
    rows = {row["rung"]: row for row in summary["rows"]}
    for claim in (*CLAIMS, *(claim for claims in CHAPTER_CLAIMS.values() for claim in claims)):
        if claim.rung in rows and claim.before in rows:
            here, verdict = judge(claim, rows)
            yield f"| {claim.words} | {claim.published} | {here} | {verdict} |"


def cell(spread: Spread) -> str:
    if spread["mean"] is None:
        return "–"
    return f"{spread['mean']:.3f}" + (f" ± {spread['std']:.3f}" if spread["std"] is not None else "")


def judge(claim: Claim, rows: dict[str, Row]) -> tuple[str, str]:
    """The measurement, and whether it confirms the claim."""
    row, before = rows[claim.rung], rows[claim.before]
    if claim.number == DIVERGED:
        learned = [value for value in row["numbers"]["AP"]["values"] if value >= MIN_AP]
        here = f"{len(row['diverged'])} of {len(row['seeds'])} seeds diverge, AP {cell(row['numbers']['AP'])}"
        return here, "not confirmed" if len(learned) == len(row["seeds"]) else "confirmed" if not learned else "in part"
    if not all(each["numbers"][claim.number]["values"] for each in (row, before)):
        return "not measured", "–"
    found = compare(row, before, claim.number)
    means = f"{cell(row['numbers'][claim.number])} against {cell(before['numbers'][claim.number])}"
    if found["verdict"] == "unknown":
        return means, "one seed"
    here = f"{means}: {found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    if found["verdict"] == claim.verdict:
        return here, "confirmed"
    return here, "within noise" if found["verdict"] == "within the spread" else "contradicted"


if __name__ == "__main__":
    main()
