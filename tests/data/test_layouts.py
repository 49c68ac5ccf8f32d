"""Folders as tools and people leave them. Each holds the photos of ``builders`` and must be read as them."""

import codecs
import json
import math
import shutil
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.checks import InputError
from focaldet.data.folder import read_folder
from focaldet.data.records import DataFolder

from .builders import CLASSES, PHOTOS, SIZE, coco_document, voc_xml, write_coco, write_photo, yolo_lines

NAMES = list(PHOTOS)
W, H = SIZE
Make = Callable[[Path], None]


def write(path: Path, text: str | bytes, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))


def photos(folder: Path, names=NAMES, suffix: str = ".jpg") -> None:
    for name in names:
        write_photo(folder / f"{name}.jpg").rename(folder / f"{name}{suffix}")


def objects(name: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    return [(CLASSES[label], box) for label, box in PHOTOS[name]]


def xml(name: str) -> str:
    return voc_xml(name, [(label, (b[0] + 1, b[1] + 1, b[2], b[3])) for label, b in objects(name)])


def coco(change: Callable[[dict], None] = lambda document: None) -> str:
    document = coco_document(NAMES)
    change(document)
    return json.dumps(document)


def each(key: str, change: Callable[[dict], None]) -> str:
    def all_of_them(document: dict) -> None:
        for entry in document[key]:
            change(entry)

    return coco(all_of_them)


def assert_as_drawn(folder: DataFolder, names=NAMES, atol: float = 1e-3) -> None:
    """Every photo is there once, with the boxes that were drawn on it."""
    found = {}
    for record in (r for records in folder.splits.values() for r in records):
        (name,) = (n for n in NAMES if record.path.read_bytes() == photo_bytes(n))
        boxes = sorted(
            [(folder.class_names[i], *np.round(b, 2)) for i, b in zip(record.labels, record.boxes_xyxy, strict=True)]
        )
        assert found.setdefault(name, boxes) == boxes
    drawn = {name: sorted((label, *map(float, box)) for label, box in objects(name)) for name in names}
    assert found == drawn
    assert folder.faults == ()


def photo_bytes(name: str, cache: dict[str, bytes] = {}) -> bytes:  # noqa: B006
    if not cache:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for other in NAMES:
                cache[other] = write_photo(Path(folder) / f"{other}.jpg").read_bytes()
    return cache[name]


def in_folders(images: str, labels: str, text: Callable[[str], str], suffix: str) -> Make:
    """Photos in one folder, one label file each in another; ``{}`` stands for the split."""

    def make(root: Path) -> None:
        for name in NAMES:
            split = "val" if name == "c" else "train"
            photos(root / images.format(split), [name])
            write(root / labels.format(split) / f"{name}{suffix}", text(name))

    return make


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "annotations"),
        ("JPEGImages", "Annotations"),
        ("data", "labels"),
        ("photos", "xmls"),
        ("{}/images", "{}/annotations"),
        ("images/{}", "annotations/{}"),
        ("images/{}", "annotations/xmls/{}"),
        ("{}", "{}"),
        ("{}", "{}_annot"),
        ("VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/Annotations"),
        ("", ""),
    ],
)
def test_voc_files_and_their_photos_may_lie_in_folders_of_any_name(tmp_path, images, labels):
    in_folders(images, labels, xml, ".xml")(tmp_path)
    folder = read_folder(tmp_path)
    assert folder.layout == "voc"
    assert_as_drawn(folder)
    if "{}" in images:
        assert {split: len(records) for split, records in folder.splits.items()} == {"train": 2, "val": 1}


def test_photos_of_one_name_in_two_split_folders_keep_their_own_labels(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        for images, labels, suffix, text in (
            ("images", "annotations", ".xml", xml(name)),
            ("images", "labels", ".txt", yolo_lines(PHOTOS[name])),
        ):
            root = tmp_path / suffix[1:]
            photos(root / split / images, [name])
            (root / split / images / f"{name}.jpg").rename(root / split / images / "same.jpg")
            write(root / split / labels / f"same{suffix}", text)
            write(root / "classes.txt", "\n".join(CLASSES))
    for root in (tmp_path / "xml", tmp_path / "txt"):
        folder = read_folder(root)
        assert folder.faults == ()
        assert [folder.splits[s][0].num_objects for s in ("train", "val")] == [2, 1]
        assert {r.file_name for records in folder.splits.values() for r in records} == {
            "train/images/same.jpg",
            "val/images/same.jpg",
        }


def voc_masks(root: Path) -> None:
    in_folders("JPEGImages", "Annotations", xml, ".xml")(root)
    for name in NAMES:
        Image.new("RGB", SIZE).save(root / "JPEGImages" / f"{name}.png")


def voc_two_years(root: Path) -> None:
    for year, names in (("VOC2007", "ab"), ("VOC2012", "c")):
        photos(root / year / "JPEGImages", names)
        for name in names:
            write(root / year / "Annotations" / f"{name}.xml", xml(name))
        write(root / year / "ImageSets" / "Main" / ("train.txt" if year == "VOC2007" else "val.txt"), "\n".join(names))
        write(root / year / "SegmentationClass" / "a.png", b"")


def voc_flags(root: Path) -> None:
    in_folders("JPEGImages", "Annotations", xml, ".xml")(root)
    write(root / "ImageSets" / "Main" / "train.txt", "a  1\nb -1\n")
    write(root / "ImageSets" / "Main" / "val.txt", "JPEGImages/c.jpg\n")


def voc_settings_of_a_training(root: Path) -> None:
    in_folders("JPEGImages", "Annotations", xml, ".xml")(root)
    write(root / "config.yaml", "train: {epochs: 9}\nval: {every: 1}\n")


def voc_lists_of_classes(root: Path) -> None:
    in_folders("JPEGImages", "Annotations", xml, ".xml")(root)
    for label, flags in (("cat", ("1", "-1")), ("dog", ("1", "1"))):
        write(root / f"ImageSets/Main/{label}_train.txt", f"a.jpg {flags[0]}\nb.jpg {flags[1]}\n")
        write(root / f"ImageSets/Main/{label}_val.txt", "c.jpg -1\n")


def voc_paddle(root: Path) -> None:
    in_folders("JPEGImages", "Annotations", xml, ".xml")(root)
    write(root / "train.txt", "".join(f"JPEGImages/{name}.jpg Annotations/{name}.xml\n" for name in "ab"))
    write(root / "val.txt", "JPEGImages/c.jpg Annotations/c.xml\n")


def voc_masks_nearer_than_photos(root: Path) -> None:
    in_folders("images", "annotations/xmls", xml, ".xml")(root)
    for name in NAMES:
        write(root / "annotations" / "trimaps" / f"{name}.png", b"")


def voc_from_zero(root: Path) -> None:
    photos(root / "images")
    for name in NAMES:
        write(root / "annotations" / f"{name}.xml", voc_xml(name, objects(name)))


def voc_renamed(root: Path) -> None:
    photos(root / "images")
    for name in NAMES:
        write(root / "xml" / f"label-{name}.xml", xml(name))


def voc_latin(root: Path) -> None:
    in_folders("images", "annotations", xml, ".xml")(root)
    for name in NAMES:
        text = '<?xml version="1.0" encoding="latin-1"?>' + xml(name).replace("<size>", "<folder>größe</folder><size>")
        write(root / "annotations" / f"{name}.xml", text, "latin-1")


def yolo(root: Path, images: str = "images", labels: str = "labels", yaml: str | None = "") -> None:
    photos(root / images)
    for name in NAMES:
        write(root / labels / f"{name}.txt", yolo_lines(PHOTOS[name]))
    if yaml is not None:
        write(root / "data.yaml", yaml or f"train: {images}\nval: {images}\nnames: [cat, dog]\n")


def rewritten(change: Callable[[str], str], **options) -> Make:
    """YOLO's layout with other lines."""

    def make(root: Path) -> None:
        yolo(root, **options)
        for name in NAMES:
            lines = [change(line) for line in yolo_lines(PHOTOS[name]).splitlines()]
            write(root / "labels" / f"{name}.txt", "".join(f"{line}\n" for line in lines))

    return make


def four_corners(line: str) -> str:
    label, x, y, w, h = line.split()
    x, y, w, h = (float(v) for v in (x, y, w, h))
    points = [(x - w / 2, y), (x, y - h / 2), (x + w / 2, y), (x, y + h / 2)]
    return " ".join([label, *(f"{v:.9f}" for point in points for v in point)])


def yolo_cvat_1_1(root: Path) -> None:
    yolo(root, "obj_train_data", "obj_train_data", None)
    write(root / "obj.names", "cat\ndog\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}.jpg\n" for name in NAMES))


def yolo_cvat_ultralytics(root: Path) -> None:
    yolo(root, "images/train", "labels/train", "path: .\ntrain: train.txt\nnames:\n  0: cat\n  1: dog\n")
    write(root / "train.txt", "".join(f"data/images/train/{name}.jpg\n" for name in NAMES))


def yolo_roboflow_darknet(root: Path) -> None:
    yolo(root, "train", "train", None)
    write(root / "train" / "_darknet.labels", "cat\ndog")


def yolo_labelimg(root: Path) -> None:
    yolo(root, "", "", None)
    write(root / "classes.txt", "cat\ndog\n")


def yolo_lists(of: Callable[[Path, str], str]) -> Make:
    def make(root: Path) -> None:
        yolo(root, yaml="train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
        write(root / "train.txt", "# photos\n\n" + "".join(f"{of(root, name)}  \r\n" for name in "ab"))
        write(root / "val.txt", of(root, "c"))

    return make


def yolo_linked(root: Path) -> None:
    photos(root.parent / "pool")
    for name in NAMES:
        write(root / "labels" / "train" / "day" / f"{name}.txt", yolo_lines(PHOTOS[name]))
    (root / "images" / "train").mkdir(parents=True)
    (root / "images" / "train" / "day").symlink_to(root.parent / "pool")
    write(root / "data.yaml", "train: images/train\nval: images/train\nnames: [cat, dog]\n")


def yolo_of(yaml: str, images: str = "images", labels: str = "labels") -> Make:
    return lambda root: yolo(root, images, labels, yaml.replace("ROOT", str(root.resolve())))


def yolo_encoded(encoding: str, bom: bytes = b"") -> Make:
    def make(root: Path) -> None:
        yolo(root)
        for name in NAMES:
            text = yolo_lines(PHOTOS[name]).replace("\n", "\r\n")
            write(root / "labels" / f"{name}.txt", bom + text.encode(encoding))

    return make


def yolo_two_descriptions(root: Path) -> None:
    yolo(root)
    write(root / "args.yaml", "names: [person]\ntrain: images\n")


def coco_of(text: str, images: str = "images", file: str = "annotations/instances_default.json") -> Make:
    def make(root: Path) -> None:
        photos(root / images)
        write(root / file, text)

    return make


def in_another_form(entry: dict) -> None:
    x, y, w, h = entry.pop("bbox")
    entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def as_runs(entry: dict) -> None:
    x, y, w, h = (int(v) for v in entry.pop("bbox"))
    mask = np.zeros((H, W), bool)
    mask[y : y + h, x : x + w] = True
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    runs = [b - a for a, b in pairwise(ends)]
    entry["bbox"] = None
    entry["segmentation"] = {"size": [H, W], "counts": [0, *runs] if flat[0] else runs}


def ids_as_words(document: dict) -> None:
    for image in document["images"]:
        image["id"] = f"photo {image['id']}"
    for entry in document["annotations"]:
        entry.update(image_id=f"photo {entry['image_id']}", category_id=str(entry["category_id"]))


def coco_batches(root: Path) -> None:
    photos(root / "images")
    for name in NAMES:
        write(root / "annotations" / f"batch-{name}.json", json.dumps(coco_document([name])))


def coco_test_without_truth(root: Path) -> None:
    write_coco(root, {"train": ["a", "b"], "val": ["c"]})
    document = coco_document(["a"])
    del document["annotations"]
    document["images"][0]["file_name"] = "later.jpg"
    write(root / "annotations" / "test.json", json.dumps(document))


def coco_entry_of_each_box(document: dict) -> None:
    names = {image["id"]: image for image in document["images"]}
    for i, entry in enumerate(document["annotations"]):
        document["images"].append({**names[entry["image_id"]], "id": 100 + i})
        entry["image_id"] = 100 + i


def coco_macos(root: Path) -> None:
    write_coco(root, {"train": ["a", "b"], "val": ["c"]})
    for name in ("annotations/._train.json", "images/._a.jpg", "__MACOSX/images/a.jpg", ".DS_Store"):
        write(root / name, b"\x00\x05\x16\x07")


def labelme(root: Path, images: str = "", image_path: str = "{}.jpg", swapped: bool = False) -> None:
    photos(root / images)
    for name in NAMES:
        shapes = []
        for label, (x1, y1, x2, y2) in objects(name):
            points = [[x2, y1], [x1, y2]] if swapped else [[x1, y1], [x2, y2]]
            shapes.append({"label": label, "points": points, "shape_type": "rectangle", "flags": {}})
        document = {"version": "5.4", "shapes": shapes, "imagePath": image_path.format(name), "imageData": None}
        write(root / f"{name}.json", json.dumps(document | {"imageWidth": W, "imageHeight": H}))


def cvat(root: Path, subset: bool = False, shape: Callable[..., str] | None = None) -> None:
    photos(root / "images")

    def box(label: str, x1: float, y1: float, x2: float, y2: float) -> str:
        return f'<box label="{label}" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"></box>'

    images = ""
    for i, name in enumerate(NAMES):
        of = f' subset="{"Validation" if name == "c" else "Train"}"' if subset else ""
        shapes = "".join((shape or box)(label, *b) for label, b in objects(name))
        images += f'<image id="{i}" name="{name}.jpg" width="{W}" height="{H}"{of}>{shapes}<tag label="cat"/></image>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    write(
        root / "annotations.xml",
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>{labels}'
        f"</labels></task></meta>{images}</annotations>",
    )


def cvat_polygon(label: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<polygon label="{label}" points="{x1},{y1};{x2},{y1};{x2},{y2}"/>'


def cvat_turned(label: str, x1: float, y1: float, x2: float, y2: float) -> str:
    x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    corners = f'xtl="{x - h / 2}" ytl="{y - w / 2}" xbr="{x + h / 2}" ybr="{y + w / 2}"'
    return f'<box label="{label}" {corners} rotation="90.00"/>'


def table(header: str, row: str, *, file: str = "labels.csv", empty: str | None = None, images: str = "images") -> Make:
    """A table; ``{x1}`` and so on stand for a box's numbers, ``{u1}`` for shares, ``{n}`` for the photo's name."""

    def make(root: Path) -> None:
        photos(root / images)
        lines = [header] if header else []
        for name in NAMES:
            for label, (x1, y1, x2, y2) in objects(name):
                values = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "w": x2 - x1, "h": y2 - y1, "W": W, "H": H}
                values |= {"u1": x1 / W, "v1": y1 / H, "u2": x2 / W, "v2": y2 / H}
                values |= {"cx": (x1 + x2) / 2, "cy": (y1 + y2) / 2}
                values |= {"ucx": (x1 + x2) / 2 / W, "ucy": (y1 + y2) / 2 / H, "uw": (x2 - x1) / W, "uh": (y2 - y1) / H}
                lines.append(row.format(n=name, c=label, **values))
            if not PHOTOS[name] and empty is not None:
                lines.append(empty.format(n=name))
        write(root / file, "\n".join(lines) + "\n")

    return make


def open_images(root: Path) -> None:
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    table(header, "{n},xclick,/m/{c},1,{u1},{u2},{v1},{v2},0,0,0", file="train-annotations-bbox.csv")(root)
    write(root / "class-descriptions-boxable.csv", "/m/cat,cat\n/m/dog,dog\n")


def label_studio(photo: str, label: str, write_labels: Callable[[Path, dict[str, str]], None]) -> Make:
    """Photos before their upload, and labels with their names after it."""

    def make(root: Path) -> None:
        for name in NAMES:
            photos(root / "images", [name])
            (root / "images" / f"{name}.jpg").rename(root / "images" / photo.format(name))
        write_labels(root, {name: label.format(name) for name in NAMES})

    return make


def uploaded_yolo(root: Path, uploaded: dict[str, str]) -> None:
    write(root / "classes.txt", "cat\ndog\n")
    for name, stem in uploaded.items():
        write(root / "labels" / f"{stem}.txt", yolo_lines(PHOTOS[name]))


def uploaded_voc(root: Path, uploaded: dict[str, str]) -> None:
    for name, stem in uploaded.items():
        write(root / "Annotations" / f"{stem}.xml", xml(name).replace(f"{name}.jpg", f"{stem}.jpg"))


def uploaded_coco(root: Path, uploaded: dict[str, str]) -> None:
    def change(image: dict) -> None:
        image["file_name"] = f"/data/upload/3/{uploaded[image['file_name'][0]]}.jpg"

    write(root / "result.json", each("images", change))


def rewritten_xml(change: Callable[[str], str], encoding: str = "utf-8") -> Make:
    def make(root: Path) -> None:
        photos(root / "images")
        for name in NAMES:
            write(root / "annotations" / f"{name}.xml", change(xml(name)), encoding)

    return make


def yolo_composed(root: Path) -> None:
    yolo(root)
    for folder, form, suffix in (("images", "NFD", "jpg"), ("labels", "NFC", "txt")):
        for name in NAMES:
            to = unicodedata.normalize(form, f"é {name}")
            (root / folder / f"{name}.{suffix}").rename(root / folder / f"{to}.{suffix}")


def yolo_names_elsewhere(root: Path) -> None:
    yolo(root, yaml="train: images\nval: images\nnames: lists/pets.names\n")
    write(root / "lists" / "pets.names", "cat\ndog\n")


def yolo_without_names(root: Path) -> None:
    yolo(root, yaml="train: images\nval: images\nnc: 2\n")
    write(root / "labels" / "classes.txt", "cat\ndog\n")


def yolo_list_in_each_folder(root: Path) -> None:
    yolo(root, yaml=None)
    write(root / "labels" / "classes.txt", "cat\ndog\n")
    write(root / "images" / "classes.txt", "cat\n")


WITH_EMPTY = {
    "voc: a mask beside each photo": voc_masks,
    "voc: two years of the development kit": voc_two_years,
    "voc: lists with flags and with paths": voc_flags,
    "voc: lists of single classes": voc_lists_of_classes,
    "voc: beside the settings of a training": voc_settings_of_a_training,
    "voc: PaddleDetection's lists": voc_paddle,
    "voc: masks nearer than the photos": voc_masks_nearer_than_photos,
    "voc: counted from 0": voc_from_zero,
    "voc: label files of other names": voc_renamed,
    "voc: another encoding, as the file declares": voc_latin,
    "yolo: CVAT's YOLO 1.1": yolo_cvat_1_1,
    "yolo: CVAT's Ultralytics YOLO": yolo_cvat_ultralytics,
    "yolo: LabelImg, beside the photos": yolo_labelimg,
    "yolo: Roboflow's Darknet": yolo_roboflow_darknet,
    "yolo: absolute lists": yolo_lists(lambda root, name: f"{root.resolve()}/images/{name}.jpg"),
    "yolo: lists of another machine": yolo_lists(lambda root, name: f"D:\\sets\\pets\\images\\{name}.JPG"),
    "yolo: lists relative to a folder above": yolo_lists(lambda root, name: f"./data/pets/images/{name}.jpg"),
    "yolo: a linked folder": yolo_linked,
    "yolo: an absolute path": yolo_of("path: ROOT\ntrain: images\nval: images\nnames: [cat, dog]\n"),
    "yolo: a path of another machine": yolo_of("path: /srv/pets\ntrain: images\nval: images\nnames: [cat, dog]\n"),
    "yolo: entries from a folder above": yolo_of("train: ../pets/images\nval: ../images\nnames: [cat, dog]\n"),
    "yolo: a pattern": yolo_of("train: images/*.jpg\nval: images/**/*.jpg\nnames: [cat, dog]\n"),
    "yolo: a test split that is not there": yolo_of("train: images\nval: images\ntest: ../test\nnames: [cat, dog]\n"),
    "yolo: Roboflow's names in words": yolo_of("train: images\nval: images\nnc: 2\nnames: ['cat', 'dog']\n"),
    "yolo: data and labels": yolo_of("", "data", "labels"),
    "yolo: labels beside the photos": yolo_of("train: images\nval: images\nnames: [cat, dog]\n", labels="images"),
    "yolo: byte order mark": yolo_encoded("utf-8", codecs.BOM_UTF8),
    "yolo: UTF-16": yolo_encoded("utf-16-le", codecs.BOM_UTF16_LE),
    "yolo: tabs": rewritten(lambda line: line.replace(" ", "\t")),
    "yolo: commas": rewritten(lambda line: line.replace(" ", ", ")),
    "yolo: turned boxes": rewritten(four_corners),
    "yolo: confidences": rewritten(lambda line: f"{line} 0.5"),
    "yolo: exponents": rewritten(lambda line: " ".join([line[0], *(f"{float(v):.8e}" for v in line.split()[1:])])),
    "yolo: key points": rewritten(
        lambda line: f"{line} .5 .5", yaml="train: images\nval: images\nkpt_shape: [1, 2]\nnames: [cat, dog]\n"
    ),
    "yolo: key points and how visible they are": rewritten(
        lambda line: f"{line} .5 .5 2 0 0 0", yaml="train: images\nval: images\nkpt_shape: [2, 3]\nnames: [cat, dog]\n"
    ),
    "yolo: another YAML file with names": yolo_two_descriptions,
    "yolo: composed labels, decomposed photos": yolo_composed,
    "yolo: names in a file": yolo_names_elsewhere,
    "yolo: a description without names": yolo_without_names,
    "yolo: a list of classes in each folder": yolo_list_in_each_folder,
    "yolo: names numbered from 1": rewritten(
        lambda line: f"{int(line[0]) + 1}{line[1:]}", yaml="train: images\nval: images\nnames: {2: dog, 1: cat}\n"
    ),
    "yolo: names in the lines": rewritten(lambda line: f"{CLASSES[int(line[0])]}{line[1:]}"),
    "yolo: remarks": rewritten(lambda line: f"# a box\n{line}"),
    "yolo: Label Studio's names": label_studio("my {}.jpg", "1f0c9a3e-my_{}", uploaded_yolo),
    "voc: Label Studio's names": label_studio("{}.jpg", "1f0c9a3e-{}", uploaded_voc),
    "coco: Label Studio's names": label_studio("my {} (1).jpg", "1f0c9a3e-my_{}_1", uploaded_coco),
    "voc: a namespace": rewritten_xml(lambda text: text.replace("<annotation>", '<annotation xmlns="http://x/y">')),
    "voc: a namespace with a prefix": rewritten_xml(
        lambda text: text.replace("<annotation>", '<v:annotation xmlns:v="http://x/y">').replace(
            "</annotation>", "</v:annotation>"
        )
    ),
    "voc: GB2312": rewritten_xml(
        lambda text: f'<?xml version="1.0" encoding="gb2312"?>{text.replace("<size>", "<folder>图片</folder><size>")}',
        "gb2312",
    ),
    "coco: FiftyOne's data and labels.json": coco_of(coco(), "data", "labels.json"),
    "coco: beside the photos": coco_of(coco(), "", "result.json"),
    "coco: Label Studio's images/": coco_of(each("images", lambda i: i.update(file_name=f"images/{i['file_name']}"))),
    "coco: ids as words": coco_of(coco(ids_as_words)),
    "coco: numbers as floats and words": coco_of(
        each("annotations", lambda a: a.update(image_id=float(a["image_id"]), bbox=[str(v) for v in a["bbox"]]))
    ),
    "coco: iscrowd as a word": coco_of(each("annotations", lambda a: a.update(iscrowd="0"))),
    "coco: polygons alone": coco_of(each("annotations", in_another_form)),
    "coco: runs alone": coco_of(each("annotations", as_runs)),
    "coco: names of another machine": coco_of(each("images", lambda i: i.update(file_name=f"/up/{i['file_name']}"))),
    "coco: backslashes": coco_of(each("images", lambda i: i.update(file_name=f"C:\\up\\{i['file_name']}"))),
    "coco: capitals": coco_of(each("images", lambda i: i.update(file_name=i["file_name"].upper()))),
    "coco: a web address": coco_of(
        each("images", lambda i: i.update(coco_url=f"http://images.example/{i.pop('file_name')}"))
    ),
    "coco: an address with a query": coco_of(
        each("images", lambda i: i.update(file_name=f"https://bucket.example/o/{i['file_name']}?alt=media&token=1-2"))
    ),
    "coco: batches": coco_batches,
    "coco: a test file without annotations": coco_test_without_truth,
    "coco: an entry of each box": coco_of(coco(coco_entry_of_each_box)),
    "coco: what macOS leaves": coco_macos,
    "coco: byte order mark": coco_of("\ufeff" + coco()),
    "labelme": labelme,
    "labelme: corners the other way round": lambda root: labelme(root, swapped=True),
    "labelme: photos in another folder": lambda root: labelme(root, "images", "images\\{}.jpg"),
    "cvat": cvat,
    "cvat: subsets": lambda root: cvat(root, subset=True),
    "cvat: polygons": lambda root: cvat(root, shape=cvat_polygon),
    "cvat: turned boxes": lambda root: cvat(root, shape=cvat_turned),
    "csv: a photo without objects": table(
        "filename,class,xmin,ymin,xmax,ymax", "{n}.jpg,{c},{x1},{y1},{x2},{y2}", empty="{n}.jpg,,,,,"
    ),
    "csv: an empty photo in pandas' words": table(
        "filename,class,xmin,ymin,xmax,ymax", "{n}.jpg,{c},{x1},{y1},{x2},{y2}", empty="{n}.jpg,NaN,NaN,NaN,NaN,NaN"
    ),
    "csv: Keras RetinaNet, without a header": table(
        "", "images/{n}.jpg,{x1},{y1},{x2},{y2},{c}", empty="images/{n}.jpg,,,,,"
    ),
}

WITHOUT_EMPTY = {
    "csv: TensorFlow": table(
        "filename,width,height,class,xmin,ymin,xmax,ymax", "{n}.jpg,{W},{H},{c},{x1},{y1},{x2},{y2}"
    ),
    "csv: semicolons": table("Image;Label;x;y;w;h", "{n}.jpg;{c};{x1};{y1};{w};{h}"),
    "csv: tabs": table(
        "path\tname\tleft\ttop\tright\tbottom", "/up/{n}.jpg\t{c}\t{x1}\t{y1}\t{x2}\t{y2}", file="a.tsv"
    ),
    "csv: centres": table("img,category,x_center,y_center,width,height", "{n}.jpg,{c},{cx},{cy},{w},{h}"),
    "csv: Kaggle's bbox": table("image_id,width,height,bbox,label", '{n},{W},{H},"[{x1}.0, {y1}.0, {w}.0, {h}.0]",{c}'),
    "csv: decimal commas": table("file;class;xmin;ymin;xmax;ymax", "{n}.jpg;{c};{x1},0;{y1},0;{x2},0;{y2},0"),
    "csv: addresses": table(
        "image_url,label,xmin,ymin,xmax,ymax", "https://bucket.example/{n}.jpg?size=1,{c},{x1},{y1},{x2},{y2}"
    ),
    "csv: shares": table("image,label,xmin,ymin,xmax,ymax", "{n}.jpg,{c},{u1},{v1},{u2},{v2}"),
    "csv: Open Images": open_images,
    "csv: centres in shares": table("image,label,x_center,y_center,width,height", "{n}.jpg,{c},{ucx},{ucy},{uw},{uh}"),
    "csv: prefixes": table(
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", "{n}.jpg;{W};{H};{x1};{y1};{x2};{y2};{c}"
    ),
    "csv: the box's width beside the photo's": table(
        "image,width,height,label,bbox_x,bbox_y,bbox_width,bbox_height", "{n}.jpg,{W},{H},{c},{x1},{y1},{w},{h}"
    ),
    "csv: SKU-110K, without a header": table("", "{n}.jpg,{x1},{y1},{x2},{y2},{c},{W},{H}"),
    "csv: VGG's annotator with two attributes": table(
        "filename,file_size,region_shape_attributes,region_attributes",
        '{n}.jpg,1,"{{""name"":""rect"",""x"":{x1},""y"":{y1},""width"":{w},""height"":{h}}}",'
        '"{{""quality"":""good"",""type"":{{""{c}"":true}}}}"',
    ),
    "csv: VGG's annotator": table(
        "filename,file_size,region_shape_attributes,region_attributes",
        '{n}.jpg,1,"{{""name"":""rect"",""x"":{x1},""y"":{y1},""width"":{w},""height"":{h}}}","{{""kind"":""{c}""}}"',
    ),
    "csv: makesense.ai, without a header": table("", "{c},{x1},{y1},{w},{h},{n}.jpg,{W},{H}"),
}


@pytest.mark.parametrize("case", WITH_EMPTY)
def test_a_folder_is_read_as_it_was_drawn(tmp_path, case):
    WITH_EMPTY[case](tmp_path / "pets")
    folder = read_folder(tmp_path / "pets")
    assert folder.layout == case.split(":")[0]
    assert_as_drawn(folder)


@pytest.mark.parametrize("case", WITHOUT_EMPTY)
def test_a_table_is_read_as_it_was_drawn_but_for_photos_in_no_line(tmp_path, case):
    WITHOUT_EMPTY[case](tmp_path / "pets")
    folder = read_folder(tmp_path / "pets")
    assert folder.layout == "csv"
    assert_as_drawn(folder, ["a", "b"])
    assert "1 photo" in " ".join(folder.notes)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_may_be_in_the_encoding_of_a_spreadsheet(tmp_path, encoding):
    table("Größe,Image,Label,xmin,ymin,xmax,ymax", "1,{n}.jpg,{c},{x1},{y1},{x2},{y2}")(tmp_path)
    file = tmp_path / "labels.csv"
    file.write_bytes(file.read_text().encode(encoding))
    assert_as_drawn(read_folder(tmp_path), ["a", "b"])


def test_a_split_that_the_description_does_not_name_is_not_used_and_that_is_said(tmp_path):
    yolo(tmp_path, "train/images", "train/labels")
    photos(tmp_path / "test" / "images", ["a"])
    write(tmp_path / "test" / "labels" / "a.txt", yolo_lines(PHOTOS["a"]))
    folder = read_folder(tmp_path)
    assert folder.faults == ()
    assert "1 photos are in no split of data.yaml" in folder.notes[0]


def test_a_description_that_leads_to_another_folder_is_refused(tmp_path):
    yolo(tmp_path / "pets", yaml="train: ../others/images\nval: images\nnames: [cat, dog]\n")
    photos(tmp_path / "others" / "images")
    with pytest.raises(InputError, match=r"'\.\./others/images' is not in"):
        read_folder(tmp_path / "pets")


def test_boxes_that_fit_only_the_turned_photo_were_drawn_on_it(tmp_path):
    # Label Studio states the size of the pixels in the file, and draws on the photo as displayed.
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        write_photo(tmp_path / "images" / f"{name}.jpg", (64, 48), exif=exif)
    document = coco_document(["a", "b"])
    document["annotations"] = [
        {"image_id": 10, "category_id": 5, "bbox": [4, 40, 30, 20]},  # 48 x 64 as displayed: y ends at 60
        {"image_id": 11, "category_id": 5, "bbox": [4, 4, 30, 20]},
    ]
    write(tmp_path / "labels.json", json.dumps(document))
    records = [r for records in read_folder(tmp_path).splits.values() for r in records]
    assert {r.path.stem: r.boxes_xyxy.tolist() for r in records} == {"a": [[4, 40, 34, 60]], "b": [[4, 4, 34, 24]]}


def test_a_folder_is_read_when_it_is_given_as_a_relative_path(tmp_path, monkeypatch):
    WITH_EMPTY["yolo: an absolute path"](tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    assert_as_drawn(read_folder("pets"))


def test_words_that_yaml_reads_as_values_are_names(tmp_path):
    yolo(tmp_path, yaml="train: images\nval: images\nnames:\n  - yes\n  - 010\n")
    assert read_folder(tmp_path).class_names == ("yes", "010")


def test_names_composed_in_the_file_are_found_decomposed_on_the_disk(tmp_path):
    photos(tmp_path / "images", ["a"])
    (tmp_path / "images/a.jpg").rename(tmp_path / "images" / unicodedata.normalize("NFD", "größe é.jpg"))
    document = coco_document(["a"])
    document["images"][0]["file_name"] = unicodedata.normalize("NFC", "größe é.jpg")
    write(tmp_path / "labels.json", json.dumps(document))
    assert read_folder(tmp_path).splits["train"][0].num_objects == 2


def other_boxes(change: Callable[..., list[float]]) -> Make:
    return coco_of(each("annotations", lambda a: a.update(bbox=change(*a["bbox"]))))


def two_sets_of_labels(root: Path) -> None:
    in_folders("images", "one", xml, ".xml")(root)
    for name in NAMES:
        write(root / "two" / f"{name}.xml", voc_xml(name, [("cat", (1, 1, 9, 9))]))


def ambiguous(root: Path) -> None:
    for day in ("one", "two"):
        photos(root / "images" / day)
    write(root / "annotations" / "all.json", coco())


def yolo_lists_that_differ(root: Path) -> None:
    yolo_list_in_each_folder(root)
    write(root / "images" / "classes.txt", "dog\ncat\n")


def yolo_corner_and_size(root: Path) -> None:
    yolo(root)
    write(root / "labels" / "a.txt", "".join(f"0 {i / 10} 0 0.1 0.1\n" for i in range(10)))
    for name in "bc":
        write(root / "labels" / f"{name}.txt", "")


def as_corners(line: str) -> str:
    label, x, y, w, h = map(float, line.split())
    return f"{label:.0f} {x - w / 2} {y - h / 2} {x + w / 2} {y + h / 2}"


def yolo_twins(root: Path) -> None:
    yolo(root)
    for name in NAMES:
        Image.new("RGB", SIZE).save(root / "images" / f"{name}.png")


LABELS_THAT_ARE_NOT_READ = {
    "via.json": (
        '{"a.jpg1": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}}',
        "VGG Image Annotator",
    ),
    "ann/a.jpg.json": ('{"objects": [{"classTitle": "cat", "points": {"exterior": [[1, 1], [9, 9]]}}]}', "Supervisely"),
    "project.json": ('[{"annotations": [{"result": [{"type": "rectanglelabels"}]}]}]', "Label Studio"),
    "annotations/default.json": ('{"items": [{"annotations": [{"label_id": 0}]}]}', "Datumaro"),
    "train/_annotations.createml.json": (
        '[{"image": "a.jpg", "annotations": [{"coordinates": {"x": 1}}]}]',
        "CreateML",
    ),
    "train.tfrecord": ("\0", "TensorFlow"),
    "label_2/a.txt": ("Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n", "KITTI"),
    "labelTxt/a.txt": ("imagesource:GoogleEarth\ngsd:0.5\n1 1 9 1 9 9 1 9 cat 0\n", "DOTA"),
    "boxes.csv": ("file,from,to\na.jpg,1,2\n", "its columns .file, from, to. contain no box"),
    "export.zip": ("PK", "unpack export.zip"),
}


@pytest.mark.parametrize("name", LABELS_THAT_ARE_NOT_READ)
def test_labels_of_a_kind_that_is_not_read_are_called_by_their_name(tmp_path, name):
    text, words = LABELS_THAT_ARE_NOT_READ[name]
    photos(tmp_path / "images")
    write(tmp_path / name, text)
    with pytest.raises(InputError, match=words) as caught:
        read_folder(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [name for name in LABELS_THAT_ARE_NOT_READ if name.endswith(".json")])
def test_a_folder_called_annotations_makes_no_coco_of_them(tmp_path, name):
    text, words = LABELS_THAT_ARE_NOT_READ[name]
    photos(tmp_path / "images")
    write(tmp_path / "annotations" / "train.json", text)
    with pytest.raises(InputError, match=words):
        read_folder(tmp_path)


def test_an_archive_is_to_be_unpacked(tmp_path):
    write(tmp_path / "set.zip", "PK")
    with pytest.raises(InputError, match=r"set\.zip: not a folder; unpack it"):
        read_folder(tmp_path / "set.zip")
    write_coco(tmp_path / "set")
    write(tmp_path / "set" / "images.zip", "PK")
    (tmp_path / "set" / "images" / "a.jpg").unlink()
    assert "photos are missing, and there are archives: unpack images.zip" in read_folder(tmp_path / "set").notes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_boxes(lambda x, y, w, h: [x / W, y / H, w / W, h / H]), "within the first pixel; if they are shares"),
        (other_boxes(lambda x, y, w, h: [x, y, x + w, y + h]), "look like .x1, y1, x2, y2."),
        (coco_of(each("annotations", lambda a: a.update(iscrowd=1))), "all of its 3 boxes are crowds"),
        (rewritten(lambda line: f"{line} 45.0"), "45, is not a confidence; is it an angle"),
        (rewritten(lambda line: line.replace(".", ",")), "expected numbers"),
        (lambda root: yolo(root, yaml="names: [cat, dog, cat]\ntrain: images\n"), "two classes are called 'cat'"),
        (lambda root: yolo(root, yaml="nc: 3\nnames: [cat, dog]\ntrain: images\n"), "'nc' says 3 classes"),
        (lambda root: yolo(root, yaml=None), "no list of classes; write the class names"),
        (ambiguous, "one/a.jpg and images/two/a.jpg fit equally well"),
        (two_sets_of_labels, "one/a.xml and two/a.xml label it differently"),
        (yolo_twins, "may label it or"),
        (yolo_lists_that_differ, "images/classes.txt and labels/classes.txt list different classes"),
        (rewritten(lambda line: f"{int(line[0]) + 1}{line[1:]}"), "count the classes from 1 to 2"),
        (rewritten(as_corners), "and others: .* look like .x1, y1, x2, y2."),
        (yolo_corner_and_size, "labels/a.txt: .* look like .x, y, width, height."),
        (
            table("image,bbox,label", '{n}.jpg,"[{x1}, {y1}, {x2}, {y2}]",{c}'),
            "labels.csv: .* look like .x1, y1, x2, y2.",
        ),
        (
            table(
                "filename,region_shape_attributes,region_attributes",
                '{n}.jpg,"{{""name"":""rect"",""x"":1,""y"":1,""width"":9,""height"":9}}","{{""a"":""{c}"",""b"":""c""}}"',
            ),
            "regions have the attributes a, b; rename the one with the class to 'class'",
        ),
        (table("filename,class,xmin,ymin,xmax,ymax", "{n}.jpg,{c},{x2},{y1},{x1},{y2}"), "zero-area"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_and_named(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_classes_that_differ_in_case_or_spaces_are_named(tmp_path):
    in_folders("images", "annotations", xml, ".xml")(tmp_path)
    write(tmp_path / "annotations" / "a.xml", xml("a").replace("dog", "D og"))
    (fault,) = read_folder(tmp_path).faults
    assert (fault.kind, "'D og', 'dog'" in fault.problem) == ("similar-classes", True)


def test_a_split_without_objects_is_named(tmp_path):
    write_coco(tmp_path)
    assert read_folder(tmp_path).notes == ("val has no object in its 1 photos: its AP cannot be measured",)


def test_a_label_file_whose_photo_is_another_ones_means_a_photo_that_is_not_here(tmp_path):
    photos(tmp_path / "images", ["a"])
    documents = {"one/a.jpg": coco_document(["a"]), "images/a.jpg": coco_document(["b"])}
    document = documents["images/a.jpg"]
    document["images"] = [{"id": 10, "file_name": "images/a.jpg"}, {"id": 11, "file_name": "more/a.jpg"}]
    document["annotations"].append({"image_id": 11, "category_id": 5, "bbox": [1, 1, 5, 5]})
    write(tmp_path / "labels.json", json.dumps(document))
    folder = read_folder(tmp_path)
    assert [(f.kind, f.item) for f in folder.faults] == [("missing-image", "more/a.jpg")]
    assert folder.splits["train"][0].boxes_xyxy.tolist() == [[0, 0, 16, 12]]


def test_polygons_that_touch_no_pixel_of_a_labelme_file_are_named(tmp_path):
    labelme(tmp_path)
    shapes = [
        {"label": "cat", "points": [[1, 1]], "shape_type": "point"},
        {"label": "cat", "points": [[10, 10], [13, 14]], "shape_type": "circle"},
        {"label": "", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {"label": "cat", "points": "all", "shape_type": "polygon"},
    ]
    document = {"shapes": shapes, "imagePath": "a.jpg", "imageWidth": W, "imageHeight": H}
    write(tmp_path / "a.json", json.dumps(document))
    folder = read_folder(tmp_path)
    assert [f.kind for f in folder.faults] == ["zero-area", "bad-entry", "bad-entry"]
    boxes = {r.path.stem: r.boxes_xyxy.tolist() for records in folder.splits.values() for r in records}
    assert boxes["a"] == [[5, 5, 15, 15]]


def test_a_turned_ellipse_of_cvat_is_enclosed(tmp_path):
    def ellipse(label: str, *box: float) -> str:
        return f'<ellipse label="{label}" cx="20" cy="20" rx="10" ry="2" rotation="45"/>'

    cvat(tmp_path, shape=ellipse)
    record = next(r for records in read_folder(tmp_path).splits.values() for r in records if r.path.stem == "b")
    reach = math.sqrt((100 + 4) / 2)
    np.testing.assert_allclose(record.boxes_xyxy, [[20 - reach, 20 - reach, 20 + reach, 20 + reach]], rtol=1e-5)


def test_tracks_of_a_video_are_refused_with_what_to_export(tmp_path):
    photos(tmp_path)
    write(tmp_path / "annotations.xml", "<annotations><track id='0' label='cat'><box frame='0'/></track></annotations>")
    with pytest.raises(InputError, match="CVAT for images"):
        read_folder(tmp_path)


@pytest.mark.skipif(not shutil.which("python3"), reason="needs python3")
def test_every_folder_of_the_shared_cases_is_read_as_it_should(bccd, tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location("folders", bccd.parents[1] / "cases" / "folders.py")
    assert spec is not None
    assert spec.loader is not None
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    short = []
    for name, (kind, make) in cases.CASES.items():
        root = tmp_path / name
        root.mkdir()
        make(root)
        try:
            folder = read_folder(root)
        except InputError:
            short += [name] * (kind != "tells")
            continue
        records = [r for records in folder.splits.values() for r in records]
        right = all(_drawn(cases, folder, record) for record in records)
        told = bool(folder.faults) == (kind == "tells")
        short += [name] * (not (right and told and records))
    assert short == []


def _drawn(cases, folder: DataFolder, record) -> bool:
    if record.path.suffix == ".png":
        return True
    truth = sorted([label, *box] for label, box in cases.truth(_stem(cases, record.path)))
    if "words" in str(folder.root):
        truth = sorted([dict(zip(cases.NAMES, ("yes", "no", "010"), strict=True))[t[0]], *t[1:]] for t in truth)
    found = sorted([folder.class_names[i], *b] for i, b in zip(record.labels, record.boxes_xyxy.tolist(), strict=True))
    return len(truth) == len(found) and all(
        a[0] == b[0] and np.allclose(a[1:], b[1:], atol=0.01) for a, b in zip(truth, found, strict=True)
    )


def _stem(cases, path: Path) -> str:
    if path.stem in cases.STEMS:
        return str(path.stem)
    return str(cases.S[int(path.stem[-1])])  # "my photo 3"
