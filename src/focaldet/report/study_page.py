"""The contents of a study's page, chapter by chapter. A chapter is left out if its files are missing or invalid."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from focaldet.evaluation.matching import best_threshold, match_run
from focaldet.evaluation.side_calibration import MIN_SIDES
from focaldet.records.run_files import Json, Run, entries, mapping, number, rows
from focaldet.records.study import TESTS
from focaldet.records.study_files import Rung, StudyFiles
from focaldet.report import facts, gallery, story, study_charts
from focaldet.report.sides import SidePicture, side_pictures
from focaldet.report.study_chapters import AFTER_LADDER
from focaldet.runtime.results import COCO_DETECTIONS, named_limit

NUM_PHOTOS = 8
NUM_SIDES = 6  # number of most certain, and of least certain sides

ACCURACIES = {
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "small",
    "AP_medium": "medium",
    "AP_large": "large",
    "rare_AP": "rarest class",
}
"""Key of a number, in addition to AP -> its name in the table."""

SWEEPS = {
    "gamma": ("γ of focal loss", "gamma"),
    "beta": ("β of quality focal loss", "beta"),
    "bins": ("bins per side", "num_bins"),
}
"""Group of extra rungs -> the parameter that varies, and its option."""


@dataclass(frozen=True)
class Strip:
    """Numbers of one table row on the common axis of all rows, from 0 (left) to 1 (right)."""

    dots: list[float]
    mean: float | None = None
    ring: float | None = None


def study_context(files: StudyFiles) -> dict[str, Any]:
    """Variables of the template study.html."""
    best = story.advice(files)
    faults = list(files.faults)
    chapters: dict[str, dict[str, Any] | None] = {}
    for name, (title, build) in CHAPTERS.items():
        try:
            chapters[name] = build(files)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            chapters[name] = None
            reason = f"{type(error).__name__}: {error}"
            faults.append(
                f"The chapter “{title}” cannot be shown: a file is not in the format of this version ({reason})."
            )
    photos = [photo for name in ("photos", "sides") for photo in (chapters[name] or {"photos": []})["photos"]]
    return {
        "title": f"Which loss for {files.name}, and why",
        "sentence": story.answer(files, best),
        "faults": faults,
        "titles": {name: title for name, (title, _) in CHAPTERS.items()},
        "chapters": [(name, title, chapters[name]) for name, (title, _) in CHAPTERS.items()],
        "advice": best,
        "files": files,
        "seeds": files.num_seeds,
        "test": TESTS[files.unit],
        "limit": named_limit(int(number(files.study.get("max_detections")) or COCO_DETECTIONS)),
        **gallery.gallery_context([("", photos)]),
        **chapters,
    }


def _why(files: StudyFiles) -> dict[str, Any]:
    return {"claims": story.claims(files)}


def _neuron(files: StudyFiles) -> dict[str, Any] | None:
    if not files.neuron:
        return None
    taught = {(curve["start"], curve["cost"]): curve for curve in files.neuron["curves"]}
    slow, fast = taught["saturated", "quadratic"], taught["saturated", "cross entropy"]
    return {
        "charts": study_charts.neuron_charts(files.neuron),
        "slow": slow,
        "fast": fast,
        "slow_half": study_charts.halfway(slow),
        "fast_half": study_charts.halfway(fast),
        "rate": slow["learning_rate"],
    }


def _family(files: StudyFiles) -> dict[str, Any] | None:
    return {"charts": study_charts.family_charts(files.neuron)} if files.neuron else None


def _ladder(files: StudyFiles) -> dict[str, Any] | None:
    ladder = files.group("ladder")
    if not any(rung["AP"] for rung in ladder):
        return None
    low, high, strips = _strips([rung["AP"].values if rung["AP"] else [] for rung in ladder])
    known = {key: words for key, words in ACCURACIES.items() if any(rung[key] for rung in ladder)}
    classes = [name for name in files.class_names if any(rung[f"AP {name}"] for rung in ladder)]
    # With a budget in epochs, minutes depend on what else ran at the time.
    budget: Literal["minutes", "epochs"] = (
        "minutes" if mapping(files.study.get("settings")).get("minutes") else "epochs"
    )
    return {
        "rungs": list(zip(ladder, strips, [files.comparison(rung.name) for rung in ladder], strict=True)),
        "low": low,
        "high": high,
        "numbers": known,
        "rare": _rare(files),
        "classes": classes if len(classes) > 1 else [],
        "sentences": _sentences(files, ladder, "AP"),
        "learning": study_charts.learning_charts(ladder, budget),
        "budget": budget,
        "sweeps": _sweeps(files),
        "sweep_sentences": _sentences(files, [rung for group in SWEEPS for rung in files.group(group)], "AP"),
    }


def _sentences(files: StudyFiles, rungs: Sequence[Rung], key: str) -> list[str]:
    """The sentences of the study that compare one number of each rung with the one before it."""
    compared = [files.comparison(rung.name, key) for rung in rungs]
    return [str(comparison["sentence"]) for comparison in compared if comparison]


def _rare(files: StudyFiles) -> str:
    label = files.study.get("rare_label")
    return files.class_names[label] if isinstance(label, int) and 0 <= label < len(files.class_names) else ""


def _sweeps(files: StudyFiles) -> list[tuple[str, Any]]:
    """(caption, chart) of each option with extra rungs."""
    settings, charts = mapping(files.study.get("settings")), []
    for group, (what, option) in SWEEPS.items():
        extra = files.group(group)
        parents = [parent for rung in extra[:1] if (parent := files.rung(rung.before))]
        values = {number((settings | rung.changes).get(option)): rung for rung in (*parents, *extra)}
        drawn = study_charts.sweep_chart(
            f"sweep-{group}", what, {value: rung for value, rung in values.items() if value is not None}
        )
        charts += [(f"AP by {what}, {extra[0].title.rpartition(',')[0]}", drawn)] if drawn else []
    return charts


def _imbalance(files: StudyFiles) -> dict[str, Any] | None:
    ladder = [rung for rung in files.group("ladder") if rung["background_loss_start"]]
    drawn = [rung for rung in ladder if mapping(rung.details.get("curves_start"))]
    if not ladder:
        return None
    shown = next((rung for rung in drawn if rung.name == "retinanet-focal"), drawn[0] if drawn else None)
    shares = []
    if shown:
        curves = [mapping(shown.details.get(f"curves_{when}")) for when in ("start", "end")]
        by_gamma = [{loss["gamma"]: loss["split"] for loss in rows(one.get("losses"))} for one in curves]
        shares = [(gamma, split, by_gamma[1].get(gamma, {})) for gamma, split in sorted(by_gamma[0].items())]
    locations = [rung.mean("imbalance_start", f"{kind}_sites") for rung in ladder for kind in ("background", "object")]
    return {
        "rungs": [
            (rung, background, objects)
            for rung, background, objects in zip(ladder, locations[::2], locations[1::2], strict=True)
        ],
        "shown": shown,
        "shares": shares,
        "charts": study_charts.imbalance_charts(shown.details) if shown else [],
    }


def _ranking(files: StudyFiles) -> dict[str, Any] | None:
    ladder = [rung for rung in files.group("ladder") if rung["rank_score"]]
    if not ladder:
        return None
    pairs = [(rung["AP"], rung["oracle_AP"]) for rung in ladder]
    low, high, strips = _strips([[s.mean for s in pair if s] for pair in pairs])
    strips = [Strip(strip.dots[:1], None, strip.dots[1] if len(strip.dots) > 1 else None) for strip in strips]
    return {
        "rungs": [
            (rung, rung.mean("ranking", "quality", "per_object"), strip)
            for rung, strip in zip(ladder, strips, strict=True)
        ],
        "low": low,
        "high": high,
        "sentences": _sentences(files, ladder, "rank_score"),
    }


def _sides(files: StudyFiles) -> dict[str, Any] | None:
    measured = [(rung, rung.mean("deviations", "sides") or 0) for rung in files.group("ladder")]
    rungs = [rung for rung, sides in measured if rung["deviation_correlation"] and sides >= MIN_SIDES]
    if not rungs:
        return None
    shown = next((rung for rung in rungs if rows(rung.details.get("sharpest"))), None)
    pictures: dict[str, list[SidePicture]] = {}
    if shown:
        for kind in ("sharpest", "most_ambiguous"):
            examples = rows(shown.details[kind])[:NUM_SIDES]
            run = _run(files, [example["image_id"] for example in examples], [])
            results = {result.image_id: result for result in match_run(run)}
            pictures[kind] = side_pictures(run, results, examples, files.class_names, f"{kind}-")
    return {
        "rungs": rungs,
        "deviations": [
            {key: rung.mean("deviations", key) for key in ("sides", "ratio", "within_1", "within_2")} for rung in rungs
        ],
        "shown": shown,
        "pictures": pictures,
        "photos": [picture.photo for group in pictures.values() for picture in group],
        "chart": study_charts.deciles_chart(rungs),
        "bands": _bands(files),
    }


def _bands(files: StudyFiles) -> list[dict[str, Any]]:
    """Coverage and width of the 90 % bands of each rung of the ladder, in both units."""
    table = []
    for rung in files.group("ladder"):
        cells = {
            scale: {key: rung.mean("bands", scale, key) for key in ("covered", "width_px")}
            for scale in ("deviation", "size")
        }
        if cells["size"]["width_px"] is not None:
            table.append({"rung": rung, **cells})
    return table


def _photos(files: StudyFiles) -> dict[str, Any] | None:
    """The same photos for every rung, with the boxes above the best confidence threshold of each rung."""
    chosen = {
        rung.name: [photo["image_id"] for photo in rows(rung.details.get("photos"))] for rung in files.group("ladder")
    }
    all_ids = next(filter(None, chosen.values()), [])
    shown = [rung for rung in files.group("ladder") if all_ids and chosen[rung.name] == all_ids]  # of the same fold
    if not shown or not files.truth:
        return None
    ids = all_ids[:NUM_PHOTOS]
    names = files.class_names
    panels: dict[object, list[gallery.Panel]] = {image_id: [] for image_id in ids}
    plain = match_run(_run(files, ids, []))
    for result in plain:
        panels[result.image_id].append(gallery.truth_panel(result, names, None))
    thresholds = {}
    for rung in shown:
        boxes = {photo["image_id"]: _ranked(photo) for photo in rows(rung.details["photos"])}
        results = match_run(_run(files, ids, [(i, box) for i in ids for box in boxes.get(i, [])]))
        threshold = thresholds[rung.title] = best_threshold(results)
        for result in results:
            panel = gallery.prediction_panel(rung.title, result, names, threshold)
            details = boxes.get(result.image_id, [])
            drawn = [_with_details(box, detail) for box, detail in zip(panel.boxes, details, strict=False)]
            panels[result.image_id].append(replace(panel, boxes=drawn))
    run = _run(files, ids, [])
    return {
        "photos": [gallery.photo(f"photo{i}", run, r, panels[r.image_id]) for i, r in enumerate(plain)],
        "thresholds": thresholds,
        "absent": [rung.title for rung in files.group("ladder") if rung not in shown],
    }


def _ranked(photo: Json) -> list[Json]:
    return sorted(rows(photo["boxes"]), key=lambda box: -box["score"])


def _with_details(box: gallery.Box, detail: Json) -> gallery.Box:
    """Add class score and quality to the text of a box, and its distributions to the tooltip."""
    words, quality = box.words, number(detail.get("quality"))
    if quality is not None:
        words = words.replace("; ", f"; class {detail['class_score']:.2f}, quality {quality:.2f}; ", 1)
    sides = gallery.encode_sides(detail["distributions"]) if detail.get("distributions") else ""
    return replace(box, words=words, sides=sides)


def _run(files: StudyFiles, image_ids: Sequence[object], boxes: Sequence[tuple[object, Json]]) -> Run:
    """Present photos and boxes as an evaluated run, so that both kinds of page share the drawing code."""
    truth = files.truth
    categories = rows(truth["categories"])
    index = {name: category["id"] for category in categories for name in [str(category["name"])]}
    by_label = [index[name] for name in files.class_names]
    wanted = set(image_ids)
    predictions = []
    for image_id, box in boxes:
        x1, y1, x2, y2 = box["box_xyxy"]
        entry = {"image_id": image_id, "category_id": by_label[box["label"]], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        predictions.append(entry | {"score": box["score"], "side_std": box["side_std_px"]})
    return Run(
        path=files.path,
        truth={
            "info": truth.get("info"),
            "categories": categories,
            "images": [image for image in rows(truth["images"]) if image["id"] in wanted],
            "annotations": [a for a in rows(truth["annotations"]) if a["image_id"] in wanted],
        },
        predictions=predictions,
    )


def _cost(files: StudyFiles) -> dict[str, Any] | None:
    ladder = [rung for rung in files.group("ladder") if rung["step_s"]]
    if not ladder:
        return None
    seconds, terms = [], []
    for rung in ladder:
        cost = mapping(rung.lines[0].get("cost"))
        parts = {str(name): rung.mean("cost", "seconds", name) or 0.0 for name in mapping(cost.get("seconds"))}
        whole = sum(parts.values())
        seconds.append([(name, 1000 * s, s / whole) for name, s in parts.items()] if whole > 0 else [])
        names = mapping(cost.get("terms_last"))
        ends = [(str(n), rung.mean("cost", "terms_first", n), rung.mean("cost", "terms_last", n)) for n in names]
        last = sum(end or 0.0 for _, _, end in ends)
        terms.append([(n, start, end, (end or 0.0) / last if last > 0 else None) for n, start, end in ends])
    keys = ("images_per_second", "epochs", "steps", "minutes")
    means = [{key: rung.mean("cost", key) for key in keys} for rung in ladder]
    longest = max(rung["step_s"].mean for rung in ladder if rung["step_s"])
    return {"rungs": list(zip(ladder, means, seconds, terms, strict=True)), "longest_ms": 1000 * longest}


def _method(files: StudyFiles) -> dict[str, Any]:
    study = files.study
    photos, objects = mapping(study.get("photos")), mapping(study.get("objects"))
    return {
        "description": str(study.get("description", "")),
        "machine": str(study.get("machine", "")),
        "split": str(study.get("split", "")),
        "splits": [(split, photos[split], entries(objects.get(split))) for split in photos],
        "settings": facts.flat_settings(mapping(study.get("settings"))),
        "rungs": [(row.get("title"), facts.flat_settings(mapping(row.get("changes")))) for row in rows(study["rungs"])],
        "seeds": entries(study.get("seeds")),
        "commands": [
            f"focaldet study --out {shlex.quote(str(files.path))}",
            f"focaldet report {shlex.quote(str(files.path))}",
        ],
    }


def _strips(values: Sequence[Sequence[float]]) -> tuple[float, float, list[Strip]]:
    """Both ends of an axis for all values, and each row on that axis; empty rows have no mean."""
    known = [value for row in values for value in row]
    if not known:
        return 0.0, 1.0, [Strip([]) for _ in values]
    low, high = min(known), max(known)
    width = max(high - low, 1e-3)
    low, high = max(low - 0.06 * width, 0.0), high + 0.06 * width
    strips = []
    for row in values:
        places = [(value - low) / (high - low) for value in row]
        strips.append(Strip(places, sum(places) / len(places) if places else None))
    return low, high, strips


CHAPTERS: dict[str, tuple[str, Callable[[StudyFiles], dict[str, Any] | None]]] = {
    "why": ("Which loss, and why", _why),
    "neuron": ("The neuron", _neuron),
    "family": ("The family of losses", _family),
    "ladder": ("The ladder", _ladder),
    **AFTER_LADDER,
    "imbalance": ("The imbalance", _imbalance),
    "ranking": ("The ranking problem", _ranking),
    "sides": ("How certain is each side?", _sides),
    "photos": ("The same photos, rung by rung", _photos),
    "cost": ("What it costs", _cost),
    "method": ("How it was measured", _method),
}
"""Name in the template -> title, and the function that builds the chapter."""
