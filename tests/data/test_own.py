"""Images of one's own: layouts, decoding, the cache, and files as strangers have them."""

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import folder as folder_module
from data.archives import DataError
from data.own import Source, read_own


def picture(path: Path, colour=(200, 100, 50), size=(40, 40), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path):
    """Two classes, 6 and 4 images of one colour each, and the cache beside them."""
    for i in range(6):
        picture(tmp_path / "x/cat" / f"{i}.png", (250, 10 * i, 0))
    for i in range(4):
        picture(tmp_path / "x/dog" / f"{i}.jpg", (0, 10 * i, 250), quality=95)
    return tmp_path / "x"


def read(root, name="folder", **options):
    return read_own(name, Source(root, cache=root.parent / "cache", **options))


def test_a_folder_a_class_gives_classes_and_a_test_set_that_is_held_out(root):
    data = read(root)
    assert data.class_names == ("cat", "dog")
    assert data.train_images.shape == (5 + 3, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.tolist() == [0] * 5 + [1] * 3
    assert data.test_labels.tolist() == [0, 1]
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        red = images[:, 0].float().mean((1, 2)) > 100
        assert torch.equal(red, labels == 0)
    assert torch.equal(read(root).test_images, data.test_images)  # the same ones each time
    half = read(root, test_share=0.5)
    assert half.test_labels.tolist() == [0, 0, 0, 1, 1]
    greens = sorted(torch.cat([half.train_images, half.test_images])[:, 1, 16, 16].tolist())
    assert greens == sorted(torch.cat([data.train_images, data.test_images])[:, 1, 16, 16].tolist())


def test_train_and_test_folders_are_taken_as_they_are(root):
    whole = root.parent / "whole"
    for part in ("train", "test"):
        for kind, colour in (("cat", (250, 0, 0)), ("dog", (0, 0, 250))):
            picture(whole / part / kind / "deep/er" / "1.PNG", colour)
    picture(whole / "train/cat/.hidden.png")
    (whole / "train/cat/notes.txt").write_text("no image")
    (whole / "train/.git").mkdir()
    data = read(whole)
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 1]


def test_images_without_labels_are_the_unlabeled_set(root):
    for i in range(7):
        picture(root.parent / "more" / f"{'abc'[i % 3]}/{i}.png", (0, 200, 0))
    data = read(root, unlabeled=root.parent / "more")
    assert data.extra_unlabeled_images is not None
    assert data.extra_unlabeled_images.shape == (7, 3, 32, 32)
    assert (data.extra_unlabeled_images[:, 1] == 200).all()


def test_mean_and_deviation_are_those_of_the_training_images(root):
    data = read(root)
    values = data.train_images.double() / 255
    assert data.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.std == pytest.approx(values.std((0, 2, 3), unbiased=False).tolist(), abs=1e-6)


@pytest.mark.parametrize("size", [16, 28, 96])
def test_the_shorter_side_is_resized_and_the_middle_kept(root, size):
    wide = np.zeros((50, 150, 3), np.uint8)
    wide[:, 50:100] = (0, 255, 0)
    Image.fromarray(wide).save(root / "cat/0.png")
    image = folder_module.decode(root / "cat/0.png", size)
    assert image.shape == (3, size, size)
    assert (image[1, :, 2:-2] == 255).all()
    assert read(root, size=size).train_images.shape[2:] == (size, size)


def test_modes_are_made_rgb_without_losing_what_they_show(tmp_path):
    def value(path):
        return folder_module.decode(path, 8)[:, 4, 4].tolist()

    assert value(picture(tmp_path / "l.png", 77, mode="L")) == [77, 77, 77]
    assert value(picture(tmp_path / "1.png", 1, mode="1")) == [255, 255, 255]
    Image.fromarray(np.full((9, 9), 257 * 100, np.uint16)).save(tmp_path / "16.png")
    assert value(tmp_path / "16.png") == [100, 100, 100]  # Pillow's own conversion gives 255
    assert value(picture(tmp_path / "a.png", (0, 0, 0, 0), mode="RGBA")) == [255, 255, 255]  # clear: white
    palette = Image.new("RGB", (9, 9), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "p.gif")
    assert value(tmp_path / "p.gif") == [10, 200, 30]
    assert value(picture(tmp_path / "c.jpg", (0, 0, 0, 0), mode="CMYK"))[0] > 250


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    lying = np.zeros((20, 20, 3), np.uint8)
    lying[:10] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(lying).save(tmp_path / "turned.jpg", exif=exif)
    image = folder_module.decode(tmp_path / "turned.jpg", 20)
    assert image[0, 2, 10] < 20
    assert image[0, 17, 10] > 235


def test_a_second_start_reads_the_cache_and_a_changed_file_is_read_anew(root, monkeypatch):
    data = read(root)
    before = {path.name for path in (root.parent / "cache").iterdir()}
    assert len(before) == 4  # images and facts of two sets
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "decode_all", lambda *given: pytest.fail("decoded again"))
        again = read(root)
    assert torch.equal(again.train_images, data.train_images)
    assert (again.mean, again.std) == (data.mean, data.std)
    again.train_images[0] = 0  # a run may write into its own copy, never into the cache
    assert torch.equal(read(root).train_images, data.train_images)
    for file in root.glob("cat/*.png"):
        picture(file, (250, 250, 250))
    assert (read(root).train_images[:5] == 250).all()


def test_a_damaged_cache_is_not_believed(root):
    data = read(root)
    for path in (root.parent / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(read(root).train_images, data.train_images)


def test_a_cache_that_cannot_be_written_is_said_and_done_without(root, capsys):
    (root.parent / "cache").write_text("a file in the way")
    assert len(read(root).train_images) == 8
    assert "not kept for the next start" in capsys.readouterr().err


def png_that_claims(width, height):
    """A PNG of a few bytes whose header claims that size."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def whole_png(tmp_path):
    return picture(tmp_path / "whole.png", size=(100, 100)).read_bytes()


BROKEN = {
    "empty": lambda t: b"",
    "one byte": lambda t: b"\x89",
    "text": lambda t: b"this is no image\n" * 10,
    "html": lambda t: b"<html>404 not found</html>",
    "half a png": lambda t: whole_png(t)[: len(whole_png(t)) // 2],
    "half a jpg": lambda t: picture(t / "w.jpg", size=(300, 300)).read_bytes()[:400],
    "png without its data": lambda t: whole_png(t)[:33],
    "flipped bytes": lambda t: whole_png(t)[:60] + b"\xff" * 30 + whole_png(t)[90:],
    "a bomb": lambda t: png_that_claims(60_000, 60_000),
    "no width": lambda t: png_that_claims(0, 10),
    "pickle": lambda t: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07oops\x94.",
    "an npz": lambda t: npz(t, {"x": np.zeros(3)}).read_bytes(),
    "zeros": lambda t: bytes(1000),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_image_is_named_and_refused_or_skipped_and_counted(root, content):
    bad = root / "cat" / "bad image.png"
    bad.write_bytes(content(root.parent))
    with pytest.raises(
        DataError, match=r"1 images cannot be read: .*bad image\.png \(.+\).*--skip_broken"
    ) as error:
        read(root)
    assert "\n" not in str(error.value)
    data = read(root, skip_broken=True)
    assert data.skipped == 1
    assert len(data.train_images) + len(data.test_images) == 10
    assert data.train_images.float().mean((1, 2, 3)).min() > 10  # no black row stands in for it


def test_links_that_lead_nowhere_and_names_of_any_bytes(root):
    (root / "cat/link.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"link\.png"):
        read(root)
    assert read(root, skip_broken=True).skipped == 1
    os.unlink(root / "cat/link.png")
    (root / "cat/loop").symlink_to(root / "cat")  # is not followed
    for name in (b"line\nbreak.png", b"\xff\xfe.png", "ein Bär.png".encode()):
        Path(os.fsdecode(os.path.join(os.fsencode(root), b"cat", name))).write_bytes(
            (root / "cat/0.png").read_bytes()
        )
    assert len(read(root).train_images) + len(read(root).test_images) == 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r / "nowhere", "there is no such folder"),
        (lambda r: r / "cat/0.png", "there is no such folder"),
        (lambda r: r / "cat", "holds 0 folders"),
        (lambda r: [(r / "empty").mkdir(), r][1], "class empty has no training image"),
        (lambda r: [(r / "a\nb").mkdir(), r][1], "is no name for a class"),
        (
            lambda r: [picture(r / "rare/1.png"), (r / "rare/1.png").write_bytes(b""), r][2],
            "1 images cannot be read",
        ),
    ],
)
def test_a_folder_that_is_not_so_laid_out_is_refused_in_one_line(root, change, message):
    with pytest.raises(DataError, match=message) as error:
        read(change(root))
    assert "\n" not in str(error.value)


def test_a_test_class_that_training_has_not_is_refused(tmp_path):
    for name in ("train/cat", "train/dog", "test/cat", "test/cow"):
        picture(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="class cow of test is not in train"):
        read(tmp_path)


def arrays(rows=20, **changes):
    labels = np.arange(rows) % 3
    images = np.repeat(labels * 80, 28 * 28).reshape(rows, 28, 28).astype(np.uint8)
    return {
        "train_images": images,
        "train_labels": labels,
        "test_images": images[:6],
        "test_labels": labels[:6],
    } | changes


def npz(tmp_path, content):
    np.savez(tmp_path / "mine.npz", **{name: value for name, value in content.items() if value is not None})
    return tmp_path / "mine.npz"


def test_an_npz_file_is_read_with_its_names(tmp_path):
    names = np.array(["t-shirt", "sock", "hat"])
    data = read(
        npz(tmp_path, arrays(class_names=names, unlabeled_images=np.zeros((5, 40, 30, 3), np.uint8))),
        "npz",
        size=28,
    )
    assert data.class_names == ("t-shirt", "sock", "hat")
    assert data.train_images.shape == (20, 3, 28, 28)
    assert torch.equal(data.train_images[:, 2, 0, 0], (data.train_labels * 80).to(torch.uint8))
    assert data.extra_unlabeled_images is not None
    assert data.extra_unlabeled_images.shape == (5, 3, 28, 28)


def test_keras_names_floats_and_a_missing_test_set_are_taken(tmp_path):
    given = arrays()
    content = {"x_train": given["train_images"][..., None] / 255, "y_train": given["train_labels"][:, None]}
    data = read(npz(tmp_path, content), "npz", size=32)
    assert data.class_names == ("0", "1", "2")
    assert sorted(data.test_labels.tolist()) == [0, 1, 2]
    assert torch.equal(data.train_images[:, 0, 9, 9], (data.train_labels * 80).to(torch.uint8))


HOSTILE = {
    "pickled objects": (arrays(train_labels=np.array([{}] * 20, object)), "Object arrays"),
    "no labels": (arrays(train_labels=None), "it has no train_labels"),
    "too few labels": (arrays(train_labels=np.arange(19) % 3), "20 train_images and 19 train_labels"),
    "labels below 0": (arrays(train_labels=np.arange(20) - 1), "whole numbers from 0"),
    "labels that are floats": (arrays(train_labels=np.arange(20) / 2), "whole numbers from 0"),
    "a huge label": (arrays(train_labels=np.full(20, 10**9)), "number the classes from 0"),
    "a class left out": (arrays(train_labels=np.arange(20) % 2 * 2), "class 1 has no training image"),
    "five dimensions": (arrays(train_images=np.zeros((20, 2, 2, 2, 3), np.uint8)), "use .N, H, W."),
    "four channels": (arrays(train_images=np.zeros((20, 8, 8, 4), np.uint8)), "use .N, H, W."),
    "NaN pixels": (arrays(train_images=np.full((20, 8, 8), np.nan)), "floats must be from 0 to 1"),
    "pixels to 255 as floats": (arrays(train_images=np.full((20, 8, 8), 255.0)), "floats must be from 0 to 1"),
    "int64 pixels": (arrays(train_images=np.full((20, 8, 8), 255)), "use uint8"),
    "a test class too many": (arrays(test_labels=np.arange(6)), "a class that train has not"),
    "test images alone": (arrays(test_labels=None), "no test_labels"),
    "names too few": (arrays(class_names=np.array(["a", "b"])), "class_names: give 3"),
    "names twice": (arrays(class_names=np.array(["a", "a", "b"])), "different texts"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_npz_file_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(npz(tmp_path, content), "npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all", bytes(500)])
def test_what_is_no_npz_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.npz: .*; write it with numpy\.savez") as error:
        read(tmp_path / "mine.npz", "npz")
    assert "\n" not in str(error.value)


def test_an_array_that_claims_more_than_there_is_memory_is_not_tried(tmp_path):
    path = npz(tmp_path, arrays())
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.uint8)) | {
        "shape": (10**6, 10**3, 10**3)
    }
    with zipfile.ZipFile(path, "w") as file, file.open("train_images.npy", "w") as packed:
        np.lib.format.write_array_header_1_0(packed, header)
    with pytest.raises(DataError, match="larger than 64 GiB"):
        read(path, "npz")


def test_facts_of_the_cache_are_plain_json(root):
    read(root)
    for path in (root.parent / "cache").glob("*.json"):
        assert set(json.loads(path.read_text())) == {"broken", "mean", "std"}
