"""Data sets written in the layouts in which their authors publish them: a writer for each."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

Parts = Mapping[str, Sequence[tuple[Image.Image, int]]]
"""By official part: images, and the number of each image's class."""


def put(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def image_folders(folder: Path, classes: Sequence[str], parts: Parts, end: str = "png") -> None:
    for part, images in parts.items():
        for number, (image, label) in enumerate(images):
            put(folder / part / classes[label] / f"{number}.{end}", image)


def listed(
    folder: Path, classes: Sequence[str], parts: Parts, lists: Mapping[str, str], images: str, line: str
) -> None:
    """Lists of files, of which a line has the name of the class and the number of the image."""
    for part, path in lists.items():
        lines = []
        for number, (image, label) in enumerate(parts[part]):
            lines.append(line.format(of=classes[label], number=f"{part}{number}"))
            inner = lines[-1] if "/" in lines[-1] else f"{classes[label]}/{lines[-1]}"
            put(folder / images / inner.lstrip("/"), image)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("\n".join(lines) + "\n")


def dtd(folder: Path, classes: Sequence[str], parts: Parts) -> None:
    lists = {part: f"dtd/dtd/labels/{part}1.txt" for part in parts}
    listed(folder, classes, parts, lists, "dtd/dtd/images", "{of}/{of}_{number}.jpg")


def resisc45(folder: Path, classes: Sequence[str], parts: Parts) -> None:
    lists = {part: f"resisc45-{part}.txt" for part in parts}
    listed(folder, classes, parts, lists, "NWPU-RESISC45", "{of}_{number}.jpg")


def sun397(folder: Path, classes: Sequence[str], parts: Parts, lists: str = "") -> None:
    names = {"train": f"{lists}Training_01.txt", "test": f"{lists}Testing_01.txt"}
    listed(folder, classes, parts, names, ".", "/c/{of}/sun_{number}.jpg")


def gtsrb(folder: Path, parts: Parts) -> None:
    root, rows = folder / "gtsrb", []
    for number, (image, label) in enumerate(parts["train"]):
        put(root / f"GTSRB/Training/{label:05d}/{number}.ppm", image)
    for number, (image, label) in enumerate(parts["test"]):
        put(root / f"GTSRB/Final_Test/Images/{number:05d}.ppm", image)
        rows.append([f"{number:05d}.ppm", str(label)])
    with (root / "GT-final_test.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["Filename", "ClassId"], *rows])


def svhn(folder: Path, parts: Parts) -> None:
    """Images are 32 by 32; the digit 0 has the label 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, images in parts.items():
        pixels = np.stack([np.asarray(image) for image, _ in images])
        labels = np.array([label or 10 for _, label in images])
        content = {"X": pixels.transpose(1, 2, 3, 0), "y": labels[:, None]}
        savemat(folder / f"{part}_32x32.mat", content, do_compression=True)


def mnist(
    folder: Path, parts: Parts, opened: Callable[[Path], Any] = lambda path: path.open("wb"), end: str = ""
) -> None:
    """Of images the first channel; all are of one size."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, start in (("train", "train"), ("test", "t10k")):
        pixels = np.stack([np.asarray(image.getchannel(0)) for image, _ in parts[part]])
        labels = np.array([label for _, label in parts[part]], np.uint8)
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            with opened(raw / f"{start}-{name}-ubyte{end}") as file:
                file.write(bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes())


def cars(folder: Path, classes: Sequence[str], parts: Parts) -> None:
    root = folder / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array(classes, object)})
    annotations = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, path in annotations.items():
        rows = []
        for number, (image, label) in enumerate(parts[part]):
            put(root / f"cars_{part}/{number:05d}.jpg", image)
            rows.append((f"{number:05d}.jpg", label + 1))
        kinds = [("fname", object), ("class", object)]
        savemat(root / path, {"annotations": np.array([rows], dtype=kinds)})
