"""Tags from XML boxes, masks, CSV and npz."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from wsss.classes import Classes
from wsss.data.tag_files import read_csv, read_npz, read_tags
from wsss.data.tags import read_written, tags_from_masks, tags_from_xml, take, write_csv
from wsss.errors import UserError

CLASSES = Classes(("cat", "dog", "traffic light"))
IMAGES = {id: Path(f"{id}.jpg") for id in "abc"}


def csv_file(tmp_path, *rows, header="image,labels"):
    path = tmp_path / "tags.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_boxes_include_difficult_and_truncated_ones_but_not_parts(tmp_path):
    (tmp_path / "a.xml").write_text(
        "<annotation><object><name>dog</name><difficult>1</difficult><part><name>head</name></part></object>"
        "<object><name>cat</name><truncated>1</truncated></object><object><name>dog</name></object></annotation>"
    )
    (tmp_path / "b.xml").write_text("<annotation></annotation>")
    assert tags_from_xml(tmp_path, ["a", "b"], CLASSES, IMAGES) == {"a": ("cat", "dog"), "b": ()}


def test_all_bad_annotations_are_named_at_once(tmp_path):
    (tmp_path / "broken.xml").write_text("<annotation>")
    (tmp_path / "strange.xml").write_text("<annotation><object><name>unicorn</name></object></annotation>")
    with pytest.raises(UserError) as error:
        tags_from_xml(tmp_path, ["gone", "broken", "strange"], CLASSES, {})
    assert all(word in str(error.value) for word in ("gone.xml is missing", "broken.xml", "'unicorn'", "--tags masks"))


def test_without_annotations_the_other_choices_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*--tags masks or --tags FILE"):
        tags_from_xml(tmp_path / "Annotations", ["a"], CLASSES, {})


def test_tags_from_masks_are_the_indices_without_background_and_void(tmp_path):
    Image.fromarray(np.array([[0, 255], [3, 1]], np.uint8)).save(tmp_path / "a.png")
    cell = np.zeros((1, 1), dtype=[("Segmentation", object)])
    cell[0, 0]["Segmentation"] = np.array([[0, 2]], np.uint8)
    scipy.io.savemat(tmp_path / "b.mat", {"GTcls": cell})
    masks = {"a": tmp_path / "a.png", "b": tmp_path / "b.mat"}
    assert tags_from_masks(masks, ["a", "b"], CLASSES) == {"a": ("cat", "traffic light"), "b": ("dog",)}


def test_a_mask_with_an_index_that_is_no_class_is_named(tmp_path):
    Image.fromarray(np.array([[4]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="above 3, the number of classes: a"):
        tags_from_masks({"a": tmp_path / "a.png"}, ["a"], CLASSES)


@pytest.mark.parametrize("cell", ["cat;dog", "cat | dog", '"cat, dog"', "dog;cat;", "dog;cat;cat"])
def test_labels_are_separated_by_semicolon_bar_or_quoted_comma(tmp_path, cell):
    assert read_csv(csv_file(tmp_path, f"a.jpg,{cell}"), CLASSES, IMAGES).tags == {"a": ("cat", "dog")}


def test_labels_are_separated_by_spaces_where_the_classes_are_given_and_all_words_are_classes(tmp_path):
    rows = ("a.jpg,cat dog", "b,traffic light", "c.png,")
    assert read_csv(csv_file(tmp_path, *rows), CLASSES, IMAGES).tags == {
        "a": ("cat", "dog"), "b": ("traffic light",), "c": (),
    }  # fmt: skip


def test_names_with_spaces_survive(tmp_path):
    rows = ("a,traffic light", "b,traffic light;dog")
    assert read_csv(csv_file(tmp_path, *rows), None, IMAGES).classes.names == ("dog", "traffic light")
    assert read_csv(csv_file(tmp_path, rows[0]), CLASSES, IMAGES).tags == {"a": ("traffic light",)}


def test_what_is_written_is_read_back(tmp_path):
    tags = {"b": ("traffic light", "cat"), "a": (), "c.png": ("dog",)}
    write_csv(tmp_path / "tags.csv", tags, CLASSES)
    assert (tmp_path / "tags.csv").read_text() == "image,labels\na,\nb,cat;traffic light\nc.png,dog\n"
    read = read_written(tmp_path / "tags.csv", CLASSES)
    assert {id: set(names) for id, names in read.items()} == {id: set(names) for id, names in tags.items()}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,cat", "b,cow", "c,cow;pig"], r"'cow' \(line 3\), 'cow', 'pig' \(line 4\); the classes are cat, dog"),
        (["a,cat", "a.jpg,dog"], r"names a \(line 2 says cat and line 3 says dog\) more than once"),
        (["a,cat,dog", "b"], "two columns.*line 2, line 3"),
    ],
)
def test_bad_rows_are_named_with_their_lines(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        read_csv(csv_file(tmp_path, *rows), CLASSES, IMAGES)


def test_the_header_is_needed(tmp_path):
    with pytest.raises(UserError, match="must begin with the line image,labels; it begins with file,tag"):
        read_csv(csv_file(tmp_path, "a,cat", header="file,tag"), CLASSES, IMAGES)


def test_npz_columns_follow_their_names_not_their_order(tmp_path):
    labels = np.array([[1, 0, 0], [0, 1, 1]], np.uint8)
    np.savez(tmp_path / "t.npz", ids=["a", "b.jpg"], labels=labels, classes=["dog", "traffic light", "cat"])
    tags, classes, _ = read_tags(tmp_path / "t.npz", CLASSES, IMAGES)
    assert {id: set(names) for id, names in tags.items()} == {"a": {"dog"}, "b": {"traffic light", "cat"}}
    assert classes is CLASSES


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": ["a"], "labels": [[1, 0]], "classes": ["cat", "pig"]}, "differ in the classes dog, pig, traffic"),
        ({"ids": ["a"], "labels": [[1]], "classes": ["cat", "dog"]}, "1 x 2"),
        ({"ids": ["a", "a"], "labels": [[1], [0]], "classes": ["cat"]}, "row 1 and row 2. more than once"),
        ({"ids": np.array(["a"], object), "labels": [[1]], "classes": ["cat"]}, "not an npz file with plain arrays"),
        ({"ids": ["a"], "labels": [[1]]}, "classes"),
        ({"ids": ["a"], "labels": [[2]], "classes": ["cat"]}, "labels 0 or 1"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UserError, match=words):
        read_npz(tmp_path / "t.npz", CLASSES, IMAGES)


def test_a_missing_row_is_an_error_an_empty_one_a_background_image():
    assert take({"a": ()}, ["a"], "the csv tags") == {"a": ()}
    ids = [f"id{number}" for number in range(12)]
    with pytest.raises(UserError, match="the csv tags has no row for id0, .*id9 and 2 more"):
        take({}, ids, "the csv tags")


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="xml, masks, or a .csv or .npz file"):
        read_tags(tmp_path / "tags.pkl", CLASSES, IMAGES)
    with pytest.raises(UserError, match="there is no tags file"):
        read_tags(tmp_path / "tags.csv", CLASSES, IMAGES)
