"""Tag files, lists and boxes in the dialects and encodings of other people's tools: read, or refused by name."""

import codecs
import re
import subprocess
from pathlib import Path

import pytest

from wsss.classes import Classes
from wsss.data.boxes import read_boxes
from wsss.data.class_hints import class_hints
from wsss.data.lists import read_ids
from wsss.data.tag_files import read_csv
from wsss.data.tags import read_class_list
from wsss.errors import UserError

IMAGES = {id: Path(f"{id}.jpg") for id in ("a", "b", "c", "2007_000032")}
ROWS = "image,labels\na.jpg,bär\nb.jpg,cat\nc.jpg,\n"
TAGS = {"a": ("bär",), "b": ("cat",), "c": ()}


def written(tmp_path, content, encoding="utf-8", name="tags.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_that_says_its_encoding_is_read(tmp_path, encoding, end):
    text = ROWS.replace("\n", end)
    assert read_csv(written(tmp_path, text, encoding), None, IMAGES).tags == TAGS
    classes = written(tmp_path, end.join(("bär", "cat", "")), encoding, "classes.txt")
    assert read_class_list(classes).names == ("bär", "cat")
    assert read_ids(written(tmp_path, end.join(("b", "a.jpg", "")), encoding, "l.txt"), IMAGES) == ("b", "a")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac-roman", "gbk", "cp1251", "utf-16-le", "utf-16-be"])
def test_text_of_another_encoding_is_refused_with_a_way_out_that_works(tmp_path, monkeypatch, encoding):
    monkeypatch.chdir(tmp_path)
    letters = {"gbk": "大熊猫", "cp1251": "кот"}.get(encoding, "bär")
    content = ROWS.replace("bär", letters)
    for name, read in {
        "my tags.csv": lambda path: read_csv(path, None, IMAGES),
        "classes.txt": read_class_list,
        "list.txt": lambda path: read_ids(path, IMAGES),
    }.items():
        path = written(tmp_path, content, encoding, name)
        with pytest.raises(UserError, match=rf"{name} is not UTF-8 text \(line [12]\b.*iconv -f ") as error:
            read(path)
        if encoding in ("latin-1", "cp1252", "utf-16-le", "utf-16-be"):
            command = str(error.value).partition("`")[2].partition("`")[0].replace("NEW", "new")
            subprocess.run(command, shell=True, check=True)
            assert Path("new").read_text("utf-8").replace("\ufeff", "") == content


def test_what_is_no_text_is_refused(tmp_path):
    for content in (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"PK\x03\x04\x14\x00\x06\x00\xff", b"image,labels\na\x00,b\n"):
        with pytest.raises(UserError, match="is not UTF-8 text.*no text file"):
            read_csv(written(tmp_path, content), None, IMAGES)
    with pytest.raises(UserError, match="can't be read"):
        read_csv(tmp_path, None, IMAGES)


@pytest.mark.parametrize(
    "text",
    [
        "image;labels\na.jpg;x|y\nb.jpg;\n",
        'image;labels\na.jpg;"x;y"\nb.jpg;\n',
        "image\tlabels\na.jpg\tx,y\nb.jpg\t\n",
        "image|labels\na.jpg|x;y\nb.jpg|\n",
        'sep=;\nimage;labels\na.jpg;"x;y"\nb.jpg;\n',
        "sep=\t\r\nimage\tlabels\r\na.jpg\tx;y\r\nb.jpg\t\r\n",
        "Image , Labels\na.jpg,x;y\nb.jpg,\n",
        '"image","labels"\r\n"a.jpg","x,y"\r\n"b.jpg",""\r\n',
        'image, labels\na.jpg, "x, y"\nb.jpg, ""\n',
        "image,labels,\na.jpg,x;y,\nb.jpg,,\n,,\n,\n\n  ,\n",
        "\n\nimage,labels\na.jpg,x; y ;\nb.jpg,Background\n",
    ],
)
def test_dialects_of_csv(tmp_path, text):
    found = read_csv(written(tmp_path, text), None, IMAGES)
    assert found.tags == {"a": ("x", "y"), "b": ()} and found.classes.names == ("x", "y") and not found.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('image,labels\na,"x\nb,y\n', r"tags.csv can't be read as a CSV file \(line 3: .*quote"),
        ("image,labels\n,x\n", "labels without the name of an image: line 2"),
        ("image;labels\na;x;y\n", r"separate labels by '\|': line 2"),
        ("", "begins with nothing"),
        ("image,labels\na," + '"' + "x;" * 70_000 + '"\n', "can't be read as a CSV file"),
    ],
)
def test_bad_csv_files_are_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        read_csv(written(tmp_path, text), None, IMAGES)


@pytest.mark.parametrize(
    "text",
    [
        "2007_000032 1\na  1\n",
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n/JPEGImages/a.jpg /Masks/a.png\n",
        "JPEGImages/2007_000032.jpg,SegmentationClass/2007_000032.png\na.jpg,a.png\n",
        "2007_000032  \r\n\r\n a\r\n",
        "images\\2007_000032.jpg\nC:\\x\\a.JPG",
    ],
)
def test_lists_of_other_forms(tmp_path, text):
    assert read_ids(written(tmp_path, text, name="train.txt"), IMAGES) == ("2007_000032", "a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n\nx\n\u200by\n", r"train.txt, line 3: there is no image file for x, '\\u200by'; add the files"),
        ("a 1\nb -1\nc 0\n", r"train.txt, line 2: .* b -1, c 0; .*lines that end in 0 or -1 say"),
        ("a.jpg b_mask.png\n", "line 1: there is no image file for a.jpg b_mask.png"),
        ("a\na 1\n", r"a \(line 1 and line 2\) more than once"),
    ],
)
def test_lists_are_blamed_by_name_and_line(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        read_ids(written(tmp_path, text, name="train.txt"), IMAGES)


@pytest.mark.parametrize(
    ("declared", "encoding", "name"),
    [
        ("gb2312", "gb2312", "猫"),
        ("GB2312", "gbk", "镕"),
        ("gbk", "gb18030", "㐀"),
        ("Shift_JIS", "shift_jis", "猫"),
        ("euc-kr", "euc-kr", "고양이"),
        ("big5", "big5", "貓"),
        ("windows-1251", "cp1251", "кот"),
        ("ISO-8859-1", "latin-1", "bär"),
        ("utf-8", "utf-8-sig", "bär"),
        ("utf-16", "utf-16", "bär"),
        ("utf-16", "utf-8", "bär"),
        (None, "utf-8", "猫"),
    ],
)
def test_boxes_in_the_encoding_that_they_declare(tmp_path, declared, encoding, name):
    head = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared else ""
    text = f"{head}<annotation><object><name> {name}\n</name></object></annotation>"
    assert read_boxes(written(tmp_path, text, encoding, "a.xml")) == {name}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding"),
        (b'<?xml version="1.0" encoding="zip"?><annotation/>', "not a text encoding"),
        (
            '<?xml version="1.0" encoding="shift_jis"?><annotation>\x81\xff</annotation>'.encode("latin-1"),
            "can't decode",
        ),
        ("<annotation>bär</annotation>".encode("latin-1"), "can't decode"),
        (b"", "no element"),
        (codecs.BOM_UTF16_LE + b"<", "truncated"),
        (b'<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>', "declares entities"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><annotation>&b;</annotation>'.encode("utf-16"), "entities"),
    ],
)
def test_boxes_that_can_not_be_read_are_named(tmp_path, content, words):
    with pytest.raises(UserError, match=rf"a\.xml can't be read \(.*{words}"):
        read_boxes(written(tmp_path, content, name="a.xml"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Cat", "cat"), "'Cat' and 'cat'"),
        (("traffic light", "traffic_light", "Traffic-Light"), "'traffic light' and 'traffic_light' and"),
        (("cat", "cat\u200b"), r"'cat' and 'cat\\u200b'"),
        (("nan", "cat"), "'nan': if that means no label, leave the cell empty"),
        (("N/A", "?"), "'N/A', '\\?': if that means no label"),
        (("['cat']", "cat"), r"\['cat'\].*: if these are lists"),
        (("cat+tree", "dog"), r"'cat\+tree': if these are several labels"),
        (("cat dog", "cat", "dog"), "'cat dog': if these are several labels"),
    ],
)
def test_classes_that_look_like_a_slip_get_a_hint(names, words):
    assert re.search(words, "; ".join(class_hints(names)))


def test_usual_classes_get_no_hint():
    assert not class_hints(
        ("cat", "potted plant", "traffic light", "light", "1", "2", "T-shirt", "Straße", "c++", "R&B")
    )


def test_a_list_of_classes_is_blamed_by_name(tmp_path):
    with pytest.raises(UserError, match="classes.txt: class name 'cat' is .* doubled"):
        read_class_list(written(tmp_path, "cat\ndog\ncat\n", name="classes.txt"))


def test_class_names_are_the_same_however_their_accents_are_stored(tmp_path):
    text = "image,labels\na,ba\u0308r\nb,b\u00e4r\n"
    assert read_csv(written(tmp_path, text), None, IMAGES).classes.names == ("bär",)
    assert read_csv(written(tmp_path, text), Classes(("bär",)), IMAGES).tags["a"] == ("bär",)
