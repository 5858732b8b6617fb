"""Tiny copies of the layouts in which people's data comes, of scenes drawn by program; each is written by its test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data.scenes import Scene, draw_scene

TISSUES = ("tumour epithelium", "necrosis", "stroma")


def scene(number: int, classes: int = 3, main: int | None = None, size: int = 64) -> Scene:
    return draw_scene(np.random.default_rng(number), size, classes, main)


def shown(drawn: Scene, classes: int = 3) -> list[int]:
    """0 or 1 for each class."""
    return [int(cls in drawn.classes) for cls in range(classes)]


def save(path: Path, drawn: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.image).save(path)


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(path)


def luad_histoseg(root: Path, train: int = 30, other: int = 6) -> None:
    """LUAD-HistoSeg and BCSS-WSSS: tags as digits in the names of train, masks for val and test.

    train/SLIDE-N-[1 0 0].png, {val,test}/{img,mask}/SLIDE-N.png.
    """
    for number in range(train):
        drawn = scene(number, main=number % 3)
        save(root / "train" / f"{1000 + number // 5}-{number}-[{' '.join(map(str, shown(drawn)))}].png", drawn)
    for split, start in (("val", 500), ("test", 600)):
        for number in range(other):
            drawn = scene(start + number, main=number % 3)
            save(root / split / "img" / f"{10 * start + number // 3}-{number}.png", drawn)
            save_mask(root / split / "mask" / f"{10 * start + number // 3}-{number}.png", drawn.labels)
    (root.parent / "tissues.txt").write_text("\n".join(TISSUES))


def bcss(root: Path, train: int = 6) -> None:
    """BCSS-WSSS's names: the digits without spaces, behind a plus."""
    for number in range(train):
        drawn = scene(number, main=number % 3)
        digits = "".join(map(str, shown(drawn)))
        save(root / "train" / f"TCGA-A{number // 2}-DX1_xmin{number}_MPP-0.2500+{number}[{digits}].png", drawn)


def mvtec(root: Path, good: int = 20, defect: int = 12) -> None:
    """MVTec AD: train/good, test/good, test/KIND, names that repeat, ground_truth/KIND/NNN_mask.png with 0 and 255."""
    for number in range(good):
        save(root / "train" / "good" / f"{number:03d}.png", scene(number, main=0))
    for number in range(4):
        save(root / "test" / "good" / f"{number:03d}.png", scene(100 + number, main=0))
    for kind, start in (("broken_large", 200), ("contamination", 300)):
        for number in range(defect // 2):
            drawn = scene(start + number, main=1)
            save(root / "test" / kind / f"{number:03d}.png", drawn)
            mask = np.where(drawn.labels == 2, 255, 0)
            save_mask(root / "ground_truth" / kind / f"{number:03d}_mask.png", mask)


def kolektor(root: Path, number: int = 8) -> None:
    """KolektorSDD2: train and test, a mask NNNNN_GT.png beside each image, 0 where there is no defect."""
    for split, start in (("train", 10000), ("test", 20000)):
        for at in range(start, start + number):
            drawn = scene(at, 1, main=0)
            save(root / split / f"{at}.png", drawn)
            save_mask(root / split / f"{at}_GT.png", 255 * (drawn.labels == 1) * (at % 2))


def imagefolder(root: Path, number: int = 4) -> None:
    """torchvision's ImageFolder: train/CLASS and val/CLASS, names that repeat."""
    for split, start in (("train", 0), ("val", 50)):
        for cls, name in enumerate(("cat", "dog")):
            for at in range(number):
                save(root / split / name / f"{at}.jpg", scene(start + 10 * cls + at, main=cls))


def coco(root: Path, train: int = 30, val: int = 6) -> None:
    """COCO: train2017 and val2017, annotations/instances_*.json of boxes, polygons and crowds; and captions."""
    categories = [{"id": 3 * cls + 1, "name": name, "supercategory": "thing"} for cls, name in enumerate(TISSUES)]
    categories.append({"id": 90, "name": "toothbrush", "supercategory": "thing"})
    for split, start, count in (("train2017", 0, train), ("val2017", 500, val)):
        images, annotations = [], []
        for number in range(start, start + count):
            drawn = scene(number, main=number % 3)
            name = f"{number:012d}.jpg"
            save(root / split / name, drawn)
            images.append({"id": number, "file_name": name, "width": 64, "height": 64})
            annotations += [
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": 3 * cls + 1,
                    "iscrowd": int(number % 5 == 0),
                    "bbox": [1, 1, 9, 9],
                    "segmentation": [[1, 1, 9, 1, 9, 9]],
                }
                for cls in drawn.classes
            ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        (path.parent / f"captions_{split}.json").write_text(json.dumps({"images": images, "annotations": []}))


def roboflow(root: Path) -> None:
    """Roboflow's multi-class CSV: _classes.csv in train, valid and test, with spaces behind the commas."""
    for split, start, count in (("train", 0, 6), ("valid", 50, 3), ("test", 70, 3)):
        rows = ["filename, " + ", ".join(TISSUES)]
        for number in range(count):
            drawn = scene(start + number, main=number % 3)
            name = f"img_{number}_jpg.rf.0a{number}.jpg"  # repeats from split to split
            save(root / split / name, drawn)
            rows.append(f"{name}, " + ", ".join(map(str, shown(drawn))))
        (root / split / "_classes.csv").write_text("\n".join(rows) + "\n")


def annotation(name: str, classes: list[str], polygon: bool) -> str:
    place = "<polygon><x1>1</x1><y1>1</y1><x2>9</x2><y2>9</y2></polygon>" if polygon else ""
    box = "<bndbox><xmin>1.5</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9.25</ymax></bndbox>"
    objects = "".join(
        f"<object><name>{cls}</name><pose/><difficult>0</difficult>{box}{place}</object>" for cls in classes
    )
    return f"<annotation><folder/><filename>{name}</filename><size><width>64</width></size>{objects}</annotation>"


def cvat(root: Path, number: int = 6) -> None:
    """CVAT's "PASCAL VOC 1.1": JPEGImages, Annotations, ImageSets/Main/{train,val}.txt, labelmap.txt."""
    ids = [f"frame_{at:06d}" for at in range(number)]
    for at, id in enumerate(ids):
        drawn = scene(at, main=at % 3)
        save(root / "JPEGImages" / f"{id}.jpg", drawn)
        (root / "Annotations").mkdir(exist_ok=True)
        text = annotation(f"{id}.jpg", [TISSUES[cls] for cls in drawn.classes], polygon=False)
        (root / "Annotations" / f"{id}.xml").write_text(text)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(ids[:4]) + "\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("\n".join(ids[4:]) + "\n")
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n")


def label_studio(root: Path, number: int = 6) -> None:
    """Label Studio's "Pascal VOC XML": images/HASH-NAME.jpg and Annotations/HASH-NAME.xml, polygons beside boxes."""
    for at in range(number):
        drawn, name = scene(at, main=at % 3), f"{at:08x}-photo_{at}"
        save(root / "images" / f"{name}.jpg", drawn)
        (root / "Annotations").mkdir(exist_ok=True)
        text = annotation(name, [TISSUES[cls] for cls in drawn.classes], polygon=True)
        (root / "Annotations" / f"{name}.xml").write_text(text)


def table(root: Path) -> None:
    """A table of tags, groups and splits, as a spreadsheet with German settings writes it."""
    rows = ["image;patient;split;cat;dog"]
    for number in range(6):
        save(root / f"p{number}.png", scene(number, 2))
        split = "val" if number in (2, 3) else "train"
        rows.append(f"p{number}.png;q{number // 2};{split};{(number + 1) % 2};{int(number in (1, 5))}")
    root.with_suffix(".csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))


def _kolektor(root: Path) -> None:
    kolektor(root)
    (root.parent / "defect.txt").write_text("defect\n")


EXAMPLES = {
    "luad": lambda root: luad_histoseg(root, train=9, other=3),
    "bottle": lambda root: mvtec(root, good=6, defect=4),
    "pets": imagefolder,
    "kolektor": _kolektor,
    "kinds": lambda root: mvtec(root, good=6, defect=4),
    "outlined": lambda root: coco(root, train=12, val=3),
    "coco": lambda root: coco(root, train=12, val=3),
    "cvat": cvat,
    "studio": label_studio,
    "robo": roboflow,
    "slides": table,
}
"""What the page on data calls them, to what writes them."""
