"""Data sets as they lie on disk, decoded once: layouts, splits, preprocessing, mapping."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from layouts import Parts
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv

from intervmerge.errors import ConfigError, DiskError, SuiteError
from intervmerge.suites.datasets import Source, SplitRule, decode, open_source
from intervmerge.suites.datasets.arrow import read_images, read_record, write_images
from intervmerge.suites.datasets.preprocess import decoded, preprocess
from intervmerge.suites.datasets.sources.kinds import KINDS
from intervmerge.suites.datasets.splits import chosen
from intervmerge.suites.images import SPLITS, Split
from intervmerge.suites.suite_file import Normalization

SIZE = 24
CLASSES = ("0", "1", "2")
STEP = 80
"""Of red between the classes of made images, so that an image says its class."""


def picture(label: int, number: int, mode: str = "RGB", shape: tuple[int, int] = (30, 40)) -> Image.Image:
    """An image that no other is equal to, whose red says its class."""
    noise = np.random.default_rng([label, number]).integers(0, 256, (*shape, 3), dtype=np.uint8)
    noise[..., 0] = STEP * label + 20
    return Image.fromarray(noise).convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def put(path: Path, label: int, number: int, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_of(picture(label, number), kind))


# ---- preprocessing

SHAPES = ((224, 224), (1, 300), (300, 1), (1, 1), (7, 5), (333, 500), (40, 600), (1200, 900))


def odd_images() -> dict[str, bytes]:
    """Files of images of every mode and shape that data sets hold."""
    found = {}
    for number, shape in enumerate(SHAPES):
        grey = np.random.default_rng(number).integers(0, 65_536, shape, dtype=np.uint16)
        image = picture(1, number, shape=shape)
        alpha = Image.fromarray((grey >> 8).astype(np.uint8))
        see_through, with_grey, palette = image.copy(), image.convert("L"), image.convert("P", colors=17)
        see_through.putalpha(alpha)
        with_grey.putalpha(alpha)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        found |= {
            f"RGBA {shape}": file_of(see_through),
            f"LA {shape}": file_of(with_grey),
            f"P {shape}": file_of(palette, transparency=bytes(range(17)) if number % 2 else 3),
            f"CMYK {shape}": file_of(image.convert("CMYK"), "JPEG"),
            f"I;16 {shape}": file_of(Image.fromarray(grey)),
            f"EXIF {shape}": file_of(image, "JPEG", exif=exif, quality=80 + number),
            f"1 {shape}": file_of(image.convert("1"), "TIFF"),
            f"L {shape}": file_of(image.convert("L"), "JPEG"),
        }
    return found


ODD = odd_images()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of transparency in bytes
def test_preprocessing_is_open_clips_to_the_bit(name: str) -> None:
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    for size in (224, 33) if "(1200" not in name else (224,):
        meant = open_clip.image_transform(size, is_train=False, mean=mean, std=std)(Image.open(io.BytesIO(ODD[name])))
        found = decoded(ODD[name], size)
        assert found.dtype == torch.uint8
        assert torch.equal(Normalization(mean=mean, std=std)(found), meant)


def test_preprocessing_needs_no_open_clip() -> None:
    code = "import sys, intervmerge.suites.datasets.preprocess; print('open_clip' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- layouts

TRAIN, TEST = 6, 3
"""Images a class."""
COUNTS = {"train": TRAIN, "val": TEST, "test": TEST}
LABELLED = range(len(CLASSES))
NAMES = [f"class_{of}" for of in CLASSES]


def pictures(*parts: str, shape: tuple[int, int] = (30, 40)) -> Parts:
    """Six images a class of what is to train, three of the others."""
    counts = {part: TRAIN if part.lower().startswith("train") else TEST for part in parts}
    return {
        part: [(picture(label, 100 * at + n, shape=shape), label) for n in range(counts[part]) for label in LABELLED]
        for at, part in enumerate(parts)
    }


def image_folders(folder: Path, *parts: str, name: Callable[[str], str] = str) -> None:
    layouts.image_folders(folder, [name(of) for of in CLASSES], pictures(*parts))


def svhn(folder: Path) -> None:
    layouts.svhn(folder, pictures("train", "test", shape=(32, 32)))


def squares(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images [images, 32, 32, 3], labels), the classes mixed."""
    labels = np.tile(np.arange(len(CLASSES)), COUNTS[part])
    numbers = enumerate(labels.tolist(), start=100 * (part == "test"))
    return np.stack([np.asarray(picture(label, n, shape=(32, 32))) for n, label in numbers]), labels


def shard(path: Path, label_of: Callable[[int], Any], image_of: Callable[[bytes], Any], **options: Any) -> None:
    """A parquet file of the hub; its name says its part."""
    part = "train" if "train" in str(path) else "test"
    labels = squares(part)[1].tolist()
    numbers = enumerate(labels, start=100 * (part == "test"))
    image, label = options.get("columns", ("image", "label"))
    table = pa.table(
        {
            image: [image_of(file_of(picture(of, number))) for number, of in numbers],
            label: [label_of(of) for of in labels],
        }
    )
    if names := options.get("names"):
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def struct(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": "gone.png"}


def hub(folder: Path) -> None:
    for part in ("train", "test"):
        path = folder / f"datasets--a--b/snapshots/0abc/data/{part}-00000-of-00001-0123456789abcdef.parquet"
        shard(path, int, struct, names=["zero", "one", "two"])


def hub_jpg_cls(folder: Path) -> None:
    for part in ("train", "test"):
        shard(folder / f"default/{part}/0000.parquet", int, bytes, columns=("jpg", "cls"))


def hub_texts(folder: Path) -> None:
    for part in ("train", "test"):
        shard(folder / f"{part}.parquet", lambda label: f"class {'cab'[label]}", struct)


def webdataset(folder: Path) -> None:
    (folder / "classnames.txt").parent.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("zero\none\ntwo\n")
    for part in ("train", "test"):
        (folder / part).mkdir()
        with tarfile.open(folder / part / "0.tar", "w") as file:
            for number, label in enumerate(squares(part)[1].tolist(), start=100 * (part == "test")):
                for end, content in (("cls", str(label).encode()), ("png", file_of(picture(label, number)))):
                    member = tarfile.TarInfo(f"s{number:07d}.{end}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))


def zip_mnist(folder: Path) -> None:
    layouts.mnist(folder, pictures("train", "test"), lambda path: gzip.GzipFile(path, "wb"), ".gz")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "EuroSAT_splits": (lambda f: image_folders(f, "train", "val", "test"), "image folders", CLASSES),
    "val for test": (lambda f: image_folders(f / "sun397", "train", "val"), "image folders", CLASSES),
    "paths as classes": (
        lambda f: image_folders(f, "Training", "Testing", name=lambda of: f"c/{of}/in"),
        "image folders",
        tuple(f"c/{of}/in" for of in CLASSES),
    ),
    "DTD": (lambda f: layouts.dtd(f, NAMES, pictures(*COUNTS)), "DTD, partition 1", ("class_0", "class_1", "class_2")),
    "RESISC45": (
        lambda f: layouts.resisc45(f, NAMES, pictures(*COUNTS)),
        "RESISC45",
        ("class_0", "class_1", "class_2"),
    ),
    "SUN397": (
        lambda f: layouts.sun397(f, NAMES, pictures("train", "test")),
        "SUN397, partition 1",
        ("c/class_0", "c/class_1", "c/class_2"),
    ),
    "SUN397 apart": (
        lambda f: layouts.sun397(f, NAMES, pictures("train", "test"), "Partitions/"),
        "SUN397, partition 1 (lists apart)",
        ("c/class_0", "c/class_1", "c/class_2"),
    ),
    "GTSRB": (lambda f: layouts.gtsrb(f, pictures("train", "test")), "GTSRB", ("00000", "00001", "00002")),
    "SVHN": (svhn, "SVHN", tuple(map(str, range(10)))),
    "MNIST": (lambda f: layouts.mnist(f, pictures("train", "test")), "IDX (MNIST)", tuple(map(str, range(10)))),
    "MNIST.gz": (zip_mnist, "IDX (MNIST)", tuple(map(str, range(10)))),
    "Cars": (
        lambda f: layouts.cars(f, [f"Car {n}" for n in CLASSES], pictures("train", "test")),
        "Stanford Cars",
        ("Car 0", "Car 1", "Car 2"),
    ),
    "hub": (hub, "Hugging Face parquet", ("zero", "one", "two")),
    "hub, jpg and cls": (hub_jpg_cls, "Hugging Face parquet", CLASSES),
    "hub, texts": (hub_texts, "Hugging Face parquet", ("class a", "class b", "class c")),
    "webdataset": (webdataset, "webdataset", ("zero", "one", "two")),
}
"""Who makes it, the row of KINDS, and the classes."""
ORDERS = {"hub, texts": [2, 0, 1]}
"""Labels of what images say they are of, where the names sort in another order."""


def made(folder: Path, layout: str) -> Source:
    LAYOUTS[layout][0](folder)
    return open_source(folder)


def shown(pixels: torch.Tensor) -> list[int]:
    """The classes that made images say they are of."""
    return ((pixels[:, 0].float().mean((1, 2)) - 20) / STEP).round().int().tolist()


def test_every_layout_is_made_here() -> None:
    assert {kind for _, kind, _ in LAYOUTS.values()} == set(KINDS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_images_with_their_class_by_name(tmp_path: Path, layout: str) -> None:
    source = made(tmp_path, layout)
    assert (source.kind, source.classes) == LAYOUTS[layout][1:]
    found = decode(source, tmp_path / "out" / "it.arrow", SIZE)
    validation = TEST * 3 if layout in ("EuroSAT_splits", "DTD", "RESISC45") else 2
    adapt = TRAIN * 3 - (validation if validation == 2 else 0)
    assert found.counts == {"adapt": adapt, "validation": validation, "test": TEST * 3}
    assert (found.classes, found.corrupt, found.note) == (source.classes, {}, "")
    order = ORDERS.get(layout, [0, 1, 2])
    for name, split in read_images(tmp_path / "out" / "it.arrow", SIZE).items():
        if split.labels is None:
            assert name == "adapt"
        else:
            assert split.labels.tolist() == [order[label] for label in shown(split.pixels)]
    assert os.listdir(tmp_path / "out") == ["it.arrow"]


TORCHVISION: dict[str, Callable[[Path, str], Any]] = {
    "DTD": lambda root, part: tv.DTD(root, part),
    "GTSRB": lambda root, part: tv.GTSRB(root, part),
    "MNIST": lambda root, part: tv.MNIST(root, part == "train"),
    "Cars": lambda root, part: tv.StanfordCars(root, part),
    "SVHN": lambda root, part: tv.SVHN(root, part),
}


@pytest.mark.parametrize("layout", TORCHVISION)
def test_torchvision_reads_the_same(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tv.SVHN, "split_list", {part: ["", f"{part}_32x32.mat", None] for part in ("train", "test")})
    source = made(tmp_path, layout)
    for part in ("train", "test"):
        theirs = TORCHVISION[layout](tmp_path, part)
        ours = source.parts[part]
        by_label = {}
        for images, labels in ((theirs, None), (ours.images, ours.labels)):
            pairs = (
                [(preprocess(*p[:1], SIZE), p[1]) for p in theirs]
                if labels is None
                else [(decoded(images.read(n), SIZE), label) for n, label in enumerate(labels)]
            )
            by_label[labels is None] = sorted((label, pixels.numpy().tobytes()) for pixels, label in pairs)
        assert by_label[True] == by_label[False]
        assert len(theirs) == len(ours.labels)
        if hasattr(theirs, "classes") and layout != "MNIST":
            assert tuple(theirs.classes) == source.classes


def test_two_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    svhn(tmp_path)
    image_folders(tmp_path, "train", "test")
    with pytest.raises(SuiteError, match="the layouts of image folders and of SVHN"):
        open_source(tmp_path)


def test_no_layout_is_refused_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "odd/one").mkdir(parents=True)
    (tmp_path / "odd/notes.txt").touch()
    with pytest.raises(SuiteError, match=r"no known layout in .*odd: notes\.txt, one; .*allowed: image folders: train"):
        open_source(tmp_path)
    with pytest.raises(SuiteError, match="FileNotFoundError"):
        open_source(tmp_path / "gone")


def spoil(folder: Path, path: str, content: bytes) -> None:
    (folder / path).write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "labels of too few": (
        "MNIST",
        lambda f: spoil(f, "MNIST/raw/t10k-labels-idx1-ubyte", bytes([0, 0, 8, 1, 0, 0, 0, 1, 7])),
        "1 labels",
    ),
    "another file": ("MNIST", lambda f: spoil(f, "MNIST/raw/t10k-images-idx3-ubyte", b"<html>"), "3c68746d"),
    "no MATLAB": ("SVHN", lambda f: spoil(f, "test_32x32.mat", b"<html>" * 40), "ValueError"),
    "an empty list": ("RESISC45", lambda f: spoil(f, "resisc45-val.txt", b""), "val: got no images"),
    "a class that train lacks": (
        "EuroSAT_splits",
        lambda f: put(f / "test/Odd/1.png", 0, 0),
        "1 classes that train lacks: Odd",
    ),
    "an image in no class": (
        "EuroSAT_splits",
        lambda f: put(f / "test/1.png", 0, 0),
        r"lie in no folder of a class: test/1\.png",
    ),
    "fewer names than classes": (
        "Cars",
        lambda f: savemat(f / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(["A", "B"], object)}),
        r"3 labels such as 2|6 labels such as 2",
    ),
    "two sets": (
        "GTSRB",
        lambda f: (f / "gtsrb/GTSRB/Final_Training/Images").mkdir(parents=True),
        "one set of training",
    ),
    "two configurations": (
        "hub, jpg and cls",
        lambda f: shard(f / "other/train/0000.parquet", int, bytes),
        "one configuration",
    ),
    "labels held back": (
        "hub, texts",
        lambda f: shard(f / "test.parquet", lambda _: -1, struct),
        "9 rows whose label is -1",
    ),
    "no label column": (
        "hub, texts",
        lambda f: shard(f / "test.parquet", int, struct, columns=("image", "x")),
        "one column is the label",
    ),
    "a label that is no class": (
        "webdataset",
        lambda f: spoil(f, "classnames.txt", b"zero\none\n"),
        r"labels such as 2; .*0\.\.1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_set_is_refused(tmp_path: Path, damage: str) -> None:
    layout, spoilt, message = DAMAGES[damage]
    LAYOUTS[layout][0](tmp_path)
    spoilt(tmp_path)
    with pytest.raises(SuiteError, match=message):
        open_source(tmp_path)


def test_images_that_are_fewer_than_labels_are_refused_when_they_are_read(tmp_path: Path) -> None:
    svhn(tmp_path)
    pixels, labels = squares("test")
    savemat(tmp_path / "test_32x32.mat", {"X": pixels[:-1].transpose(1, 2, 3, 0), "y": labels[:, None]})
    with pytest.raises(SuiteError, match=r"test_32x32\.mat: got 8 images"):
        decode(open_source(tmp_path), tmp_path / "a.arrow", SIZE)


# ---- splits

LABELS = {"train": [0] * 60 + [1] * 30 + [2] * 10, "val": [0, 1, 2] * 5, "test": [0, 1, 2] * 8, "noise": [0]}


def numbers(rule: SplitRule, *parts: str) -> dict[str, tuple[str, list[int]]]:
    found = chosen(rule, {name: LABELS[name] for name in parts}, "set")
    return {split: (of.part, list(of.numbers)) for split, of in found.items()}


def test_adapt_and_validation_share_the_training_part_and_no_image() -> None:
    for rule in (SplitRule(), SplitRule(draw="random", validation=0.37), SplitRule(seed=3, most_validation=7)):
        found = numbers(rule, "train", "test")
        assert sorted(found["adapt"][1] + found["validation"][1]) == list(range(100))
        assert len(found["validation"][1]) == min(round(100 * rule.validation), rule.most_validation)
        assert found == numbers(rule, "train", "test")
        assert found["test"] == ("test", list(range(24)))


def test_a_stratified_draw_keeps_the_shares_of_classes() -> None:
    _, drawn = numbers(SplitRule(validation=0.2), "train", "test")["validation"]
    assert np.bincount([LABELS["train"][n] for n in drawn]).tolist() == [12, 6, 2]


def test_another_seed_draws_others() -> None:
    one, other = (numbers(SplitRule(seed=seed), "train", "test")["validation"] for seed in (0, 1))
    assert one != other


def test_the_official_validation_part_is_used_where_there_is_one_beside_test() -> None:
    found = numbers(SplitRule(), "train", "val", "test")
    assert (found["adapt"], found["validation"]) == (("train", list(range(100))), ("val", list(range(15))))
    assert numbers(SplitRule(validation_from="train"), "train", "val", "test")["validation"][0] == "train"
    assert numbers(SplitRule(), "train", "val")["test"] == ("val", list(range(15)))
    assert numbers(SplitRule(test="noise"), "train", "val", "test", "noise")["test"] == ("noise", [0])


def test_limits_draw_from_what_would_be_there_without_them_and_are_said() -> None:
    rule = SplitRule(limit_adapt=20, limit_validation=4, limit_test=6)
    less, all_of_them = numbers(rule, "train", "test"), numbers(SplitRule(), "train", "test")
    for split, most in (("adapt", 20), ("validation", 4), ("test", 6)):
        assert len(less[split][1]) == most
        assert set(less[split][1]) < set(all_of_them[split][1])
    assert rule.note == "at most 20 of adapt, 4 of validation, 6 of test images a task"
    assert numbers(SplitRule(limit_test=1000), "train", "test") == all_of_them


@pytest.mark.parametrize(
    ("rule", "parts", "message"),
    [
        ({}, ("val", "noise"), "the parts val, noise; one of them is named train"),
        ({}, ("train", "noise"), "one of them is named test or validation"),
        ({"test": "tset"}, ("train", "test"), "'tset'.*test"),
        ({"train": "train", "test": "train"}, ("train", "test"), "test: got 'train'"),
        ({"train": "noise"}, ("noise", "test"), "none left for validation"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule: dict[str, Any], parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        numbers(SplitRule(**rule), *parts)


@pytest.mark.parametrize("values", [{"validation": 1.0}, {"most_corrupt": -0.1}, {"limit_test": 0}])
def test_values_of_no_meaning_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        SplitRule(**values)


# ---- decoding


def many(folder: Path, images: int = 300) -> Source:
    """A data set of several pieces."""
    for number in range(images):
        put(folder / f"train/{number % 3}/{number}.png", number % 3, number)
    for number in range(30):
        put(folder / f"test/{number % 3}/{number}.png", number % 3, 1_000 + number)
    return open_source(folder)


def test_decoded_pixels_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    source = many(tmp_path / "set")
    told: list[tuple[int, int]] = []
    decode(source, tmp_path / "a.arrow", SIZE, progress=lambda done, total: told.append((done, total)))
    paths = sorted((tmp_path / "set/test").rglob("*.png"))
    loop = torch.stack([preprocess(Image.open(path), SIZE) for path in paths])
    found = read_images(tmp_path / "a.arrow", SIZE)
    assert torch.equal(found["test"].pixels, loop)
    assert told[0] == (0, 330)
    assert told[-1] == (330, 330)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    images = [image.numpy().tobytes() for split in found.values() for image in split.pixels]
    assert len(set(images)) == 330  # no image is in two splits


def test_how_many_processes_decode_changes_no_byte(tmp_path: Path) -> None:
    source = many(tmp_path / "set")
    for processes in (1, 2):
        decode(source, tmp_path / f"{processes}.arrow", SIZE, processes=processes)
    assert (tmp_path / "1.arrow").read_bytes() == (tmp_path / "2.arrow").read_bytes()


def test_what_is_decoded_is_not_decoded_again(tmp_path: Path) -> None:
    source, path = many(tmp_path / "set", 60), tmp_path / "a.arrow"
    first = decode(source, path, SIZE)
    before = path.stat()
    assert decode(source, path, SIZE) == first
    assert path.stat().st_ino == before.st_ino
    decode(source, path, SIZE, SplitRule(limit_test=9))
    assert path.stat().st_ino != before.st_ino
    assert read_record(path)["rule"]["limit_test"] == 9
    put(tmp_path / "set/test/0/0.png", 0, 5_000)
    decode(open_source(tmp_path / "set"), path, SIZE, SplitRule(limit_test=9, seed=0))
    assert read_record(path)["counts"] == {"adapt": 54, "validation": 6, "test": 9}


KILLED = """
import sys, time
from pathlib import Path
from intervmerge.suites.datasets import decode, open_source
if __name__ == "__main__":
    def progress(done, total):
        if done:
            print(done, flush=True)
            time.sleep(60)
    decode(open_source(Path(sys.argv[1])), Path(sys.argv[2]), {size}, processes=int(sys.argv[3]), progress=progress)
"""


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            content = stat.read_text()
        except OSError:
            continue
        if int(content.rpartition(")")[2].split()[1]) == pid:
            found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_decode_goes_on_where_it_was(tmp_path: Path, processes: int) -> None:
    source = many(tmp_path / "set")
    script = tmp_path / "script.py"
    script.write_text(KILLED.format(size=SIZE))
    path = tmp_path / "a.arrow"
    command = [sys.executable, str(script), str(tmp_path / "set"), str(path), str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        theirs = children(running.pid)
        running.kill()
    assert len(theirs) >= processes - 1
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in theirs) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in theirs if Path(f"/proc/{pid}").exists()], "they outlive whoever started them"
    assert not path.exists()
    done = {mark: mark.stat().st_mtime_ns for mark in (tmp_path / ".a.arrow.decoding").glob("*-*.json")}
    assert done
    told: list[int] = []
    decode(source, path, SIZE, progress=lambda so_far, _: told.append(so_far))
    assert told[0] > 0
    decode(source, tmp_path / "whole.arrow", SIZE)
    assert path.read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    assert not (tmp_path / ".a.arrow.decoding").exists()


def test_another_process_that_decodes_the_same_is_refused(tmp_path: Path) -> None:
    source, path = many(tmp_path / "set", 30), tmp_path / "a.arrow"

    def progress(done: int, total: int) -> None:
        if done == 0:
            with pytest.raises(ConfigError, match="another process"):
                decode(source, path, SIZE)

    decode(source, path, SIZE, progress=progress)


def test_corrupt_images_are_named_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = many(tmp_path / "set")
    (tmp_path / "set/train/0/0.png").write_bytes(b"<html>")
    whole = (tmp_path / "set/train/1/1.png").read_bytes()
    (tmp_path / "set/train/1/1.png").write_bytes(whole[: len(whole) // 2])
    rule = SplitRule(most_corrupt=0.02)
    found = decode(source, tmp_path / "a.arrow", SIZE, rule)
    assert found.corrupt.keys() == {"train/0/0.png", "train/1/1.png"}
    assert "no image" in found.corrupt["train/0/0.png"]
    assert sum(found.counts.values()) == 328
    assert "left out 2 corrupt images: train/" in caplog.text
    splits = read_images(tmp_path / "a.arrow", SIZE)
    assert splits["adapt"].pixels.flatten(1).any(1).all(), "no hole is left"
    labels = splits["validation"].labels
    assert labels is not None
    assert labels.tolist() == shown(splits["validation"].pixels)


def test_too_many_corrupt_images_are_refused_and_only_they_are_decoded_again(tmp_path: Path) -> None:
    source, path = many(tmp_path / "set"), tmp_path / "a.arrow"
    broken = tmp_path / "set/test/0/0.png"
    content = broken.read_bytes()
    broken.unlink()
    with pytest.raises(SuiteError, match=r"test: got 1 corrupt images: test/0/0\.png \(FileNotFoundError.*, of 30"):
        decode(source, path, SIZE)
    assert not path.exists()
    broken.write_bytes(content)
    told: list[int] = []
    assert decode(source, path, SIZE, progress=lambda done, _: told.append(done)).corrupt == {}
    assert told == [300, 330, 330]


def test_a_file_of_images_says_how_it_was_made(tmp_path: Path) -> None:
    rule = SplitRule(seed=4, limit_adapt=50)
    decode(many(tmp_path / "set"), tmp_path / "a.arrow", SIZE, rule)
    record = read_record(tmp_path / "a.arrow")
    assert SplitRule(**record["rule"]) == rule
    assert record["official"] == {"train": 300, "test": 30}
    assert record["parts"] == {"adapt": "train", "validation": "train", "test": "test"}
    assert record["counts"] == {"adapt": 50, "validation": 30, "test": 30}


def test_what_cannot_be_decoded_into_is_refused_in_words(tmp_path: Path) -> None:
    source = many(tmp_path / "set", 30)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DiskError, match="the same again goes on"):
        decode(source, tmp_path / "full" / "a.arrow", SIZE)
    with pytest.raises(ConfigError, match="processes: got 0"):
        decode(source, tmp_path / "a.arrow", SIZE, processes=0)


# ---- images that are mapped


@pytest.fixture
def arrow(tmp_path: Path) -> Path:
    decode(many(tmp_path / "set", 90), tmp_path / "a.arrow", SIZE)
    return tmp_path / "a.arrow"


def mapping(address: int) -> list[str]:
    """Rights and file of what an address of this process is mapped to."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, _, *name = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return [rights, *name]
    return []


def test_pixels_are_the_file_and_nobodys_own_memory(arrow: Path) -> None:
    for split in read_images(arrow, SIZE).values():
        for tensor in (split.pixels, pickle.loads(pickle.dumps(split)).pixels):
            assert mapping(tensor.data_ptr()) == ["r--s", str(arrow)] or mapping(tensor.data_ptr())[0] == "r--p"
            assert mapping(tensor.data_ptr())[1:] == [str(arrow)]
            assert tensor.is_contiguous()
            assert torch.equal(tensor, split.pixels)
        assert len(pickle.dumps(split)) < 5_000


def test_who_writes_to_mapped_images_is_ended_and_the_file_stays(arrow: Path) -> None:
    before = arrow.read_bytes()
    code = (
        "import sys; from pathlib import Path; from intervmerge.suites.datasets.arrow import read_images\n"
        f"pixels = read_images(Path(sys.argv[1]), {SIZE})['test'].pixels; print(len(pixels), flush=True); pixels[0] = 0"
    )
    done = subprocess.run([sys.executable, "-c", code, str(arrow)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("30", -signal.SIGSEGV)
    assert arrow.read_bytes() == before


def test_mapped_and_copied_images_are_the_same(arrow: Path, tmp_path: Path) -> None:
    mapped = read_images(arrow, SIZE)
    write_images(tmp_path / "compressed.arrow", mapped)
    for name, split in read_images(tmp_path / "compressed.arrow", SIZE).items():
        assert (split.block, mapped[name].block is None) == (None, False)
        assert torch.equal(split.pixels, mapped[name].pixels)
        assert split.fingerprint == mapped[name].fingerprint == Split(mapped[name].pixels, None).fingerprint
        assert mapped[name].carried().block is None
        assert torch.equal(pickle.loads(pickle.dumps(mapped[name].carried())).pixels, split.pixels)


def test_images_whose_file_has_changed_are_not_mapped_elsewhere(arrow: Path) -> None:
    crossing = pickle.dumps(read_images(arrow, SIZE)["test"])
    content = arrow.read_bytes()
    arrow.unlink()
    with pytest.raises(SuiteError, match=r"a\.arrow: got .*No such file"):
        pickle.loads(crossing)
    arrow.write_bytes(content)
    with pytest.raises(SuiteError, match="images stay as they are"):
        pickle.loads(crossing)


def test_splits_that_lie_mixed_are_copied(tmp_path: Path, arrow: Path) -> None:
    with pa.OSFile(str(tmp_path / "mixed.arrow"), "wb") as sink, pa.memory_map(str(arrow)) as source:
        table = pa.ipc.open_file(source).read_all()
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).numpy()
        mixed = table.take(pa.array(order)).combine_chunks()
        with pa.ipc.new_file(sink, mixed.schema) as writer:
            writer.write_table(mixed, max_chunksize=17)
    meant, found = (read_images(path, SIZE) for path in (arrow, tmp_path / "mixed.arrow"))
    for name in SPLITS:
        assert found[name].block is None
        assert sorted(map(bytes, found[name].pixels.numpy())) == sorted(map(bytes, meant[name].pixels.numpy()))
