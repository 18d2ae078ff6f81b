from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from co2ssl.data.sources import DataError, open_source


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images, 1.png to 6.png, each one pixel wider than the one before."""
    for number in range(1, 7):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (number, 3)).save(tmp_path / f"photos/{number}.png")
    return tmp_path


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def widths(spec: str, split: str = "train") -> list[int]:
    source = open_source(spec, split)
    return [source.load(index).shape[1] for index in range(len(source))]


def labels(spec: str, split: str = "train") -> list[str]:
    source = open_source(spec, split)
    assert source.labels is not None
    assert source.classes is not None
    return [source.classes[label] for label in source.labels]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_text_list_in_its_order_whatever_the_line_ends(photos: Path, ending: str) -> None:
    lines = ["photos/3.png", "", f"{photos}/photos/1.png", "  ", "photos/2.png"]
    path = written(photos / "list.TXT", "\ufeff" + ending.join(lines))
    assert widths(path) == [3, 1, 2]
    source = open_source(path, "val")
    assert (source.labels, source.classes, source.name) == (None, None, path)
    assert source.describe(0) == f"{photos}/photos/3.png"
    assert source.describe(1) == f"{photos}/photos/1.png"


def test_paths_are_relative_to_the_list_wherever_one_is(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(photos / "photos/list.txt", "1.png\n2.png\n")
    monkeypatch.chdir(photos)
    assert widths("photos/list.txt") == [1, 2]
    monkeypatch.chdir(photos / "photos")
    assert widths("list.txt") == [1, 2]


def test_names_with_spaces_commas_and_other_scripts(photos: Path) -> None:
    odd = ["a b.png", " c.png", "d,e.png", 'f"g.png', "日本.png", "#h.png"]
    for width, name in enumerate(odd, start=1):
        Image.new("RGB", (width, 1)).save(photos / name)
    assert widths(written(photos / "l.txt", "\n".join(odd))) == [1, 2, 3, 4, 5, 6]
    quoted = "\n".join('"' + name.replace('"', '""') + '"' for name in odd)
    assert widths(written(photos / "l.csv", f"path\n{quoted}\n")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names")
@pytest.mark.parametrize("text", [b"caf\xe9.png", b"path\ncaf\xe9.png"])
def test_names_that_are_not_utf8(photos: Path, text: bytes) -> None:
    with open(os.path.join(os.fsencode(photos), b"caf\xe9.png"), "wb") as file:
        Image.new("RGB", (9, 1)).save(file, "PNG")
    assert widths(written(photos / ("l.csv" if b"\n" in text else "l.txt"), text)) == [9]


def test_a_csv_with_labels_and_splits(photos: Path) -> None:
    path = written(
        photos / "list.csv",
        "\ufeffID,Path,label,split\r\n"
        "7,photos/1.png,dog,train\r\n"
        '8,photos/2.png,"cat, small",Training\r\n'
        "\r\n"
        "9,photos/3.png,dog,test\r\n"
        "10,photos/4.png,cow,valid\r\n"
        "11,photos/5.png,dog,VAL\r\n",
    )
    assert widths(path) == [1, 2]
    assert labels(path) == ["dog", "cat, small"]
    # As of folders: what there is to test on is left alone where there is something to validate on.
    assert widths(path, "val") == [4, 5]
    assert labels(path, "val") == ["cow", "dog"]
    # The parts number the classes alike, whichever they hold.
    assert open_source(path).classes == open_source(path, "val").classes == ("cat, small", "cow", "dog")
    assert open_source(path).fingerprint() != open_source(path, "val").fingerprint()


def test_a_csv_with_rows_to_test_on_alone(photos: Path) -> None:
    path = written(photos / "l.csv", "path,split\nphotos/1.png,train\nphotos/2.png,Test\nphotos/3.png,testing\n")
    assert widths(path) == [1]
    assert widths(path, "val") == [2, 3]


def test_a_label_that_is_called_like_a_split(photos: Path) -> None:
    path = written(photos / "l.csv", "label,split,path\nTrain,train,photos/1.png\ntrain,Train,photos/2.png\n")
    assert labels(path) == ["Train", "train"]


def test_a_csv_of_paths_alone(photos: Path) -> None:
    path = written(photos / "list.csv", "path\nphotos/2.png\nphotos/2.png\n")
    for split in ("train", "val"):
        assert widths(path, split) == [2, 2]
        assert open_source(path, split).labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: the header needs a column 'path' and has nothing"),
        ("photos/1.png\nphotos/2.png\n", r"line 1: the header needs a column 'path' and has photos/1.png"),
        ("file;path\n", r"line 1: the header needs a column 'path'"),
        ("paths,label\n", r"line 1: .* has paths, label; is it paths\?"),
        ("path,lable\nphotos/1.png,a\n", r"line 1: unknown column 'lable'; did you mean label\?"),
        ("path,path\n", r"line 1: there are 2 columns 'path'"),
        ("path\n", r"names no images"),
        ("path,label\nphotos/1.png,a\n\nphotos/2.png\n", r"line 4: 1 fields, and the header has 2"),
        ("path\nphotos/1,000.png\n", r"line 2: 2 fields, and the header has 1; .*quotes"),
        ("path,label\nphotos/1.png,a\n,b\n", r"line 3: no path"),
        ("path,label\nphotos/1.png,a\nphotos/2.png, \n", r"line 3: no label; give one in every row"),
        ("path,split\nphotos/1.png,train\nphotos/2.png,tarin\n", r"line 3: no split .* 'tarin'; did you mean train"),
        ("path,split\nphotos/1.png,unlabeled\n", r"line 2: no split is called 'unlabeled'; use train or val"),
        ("path,split\nphotos/1.png,val\n", r"no row of .* has the split train; its column 'split' says 'val'"),
        ('path\n"photos/1.png"x\n', r"line 2: "),
        ("path\nno/1.png\nno/2.png\n", r"line 2: there is no file .*no/1.png, nor any other of 2 looked at"),
    ],
)
def test_what_is_wrong_with_a_csv_and_where(photos: Path, text: str, message: str) -> None:
    path = written(photos / "list.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        open_source(path)
    assert path in str(caught.value)


def test_what_is_wrong_with_a_text_list(photos: Path) -> None:
    for text, message in (
        ("\n\n", "names no images"),
        ("\nphotos/1.png 0\nphotos/2.png 1\n", r"line 2: there is no file .*1.png 0, nor any .*labels need a .csv"),
        (b"photos/1.png\nph\0tos", "line 2: a zero byte; is this a text file"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(written(photos / "list.txt", text))
    for name in ("list.text", "photos/1.png"):
        (photos / "list.text").touch()
        with pytest.raises(DataError, match=r"is a file; give the folder that holds the images, or a \.txt or \.csv"):
            open_source(str(photos / name))
    with pytest.raises(DataError, match="no such folder"):
        open_source(str(photos / "none.csv"))


def test_files_that_are_gone_are_left_to_the_loader(photos: Path) -> None:
    path = written(photos / "list.txt", "photos/gone.png\nphotos/2.png\n")
    assert len(open_source(path)) == 2


def test_a_folder_that_is_called_like_a_list(photos: Path) -> None:
    (photos / "photos").rename(photos / "photos.txt")
    assert widths(str(photos / "photos.txt")) == [1, 2, 3, 4, 5, 6]
