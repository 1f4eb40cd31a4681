"""Photographs: patches for backgrounds, and square regions that never cross from one split to another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

from intervmerge.suite_build.drawing.sources import python_data

Pixels = npt.NDArray[np.uint8]

CC0 = "CC0-1.0"
PUBLIC = "public domain"
UNRESTRICTED = "no known copyright restrictions"

PHOTOGRAPHS: Mapping[str, tuple[str, str, str]] = {
    "astronaut": ("astronaut.png", PUBLIC, "NASA"),
    "bricks": ("brick.png", CC0, "CC0Textures"),
    "cameraman": ("camera.png", CC0, "Lav Varshney"),
    "cat": ("chelsea.png", CC0, "Stefan van der Walt"),
    "cell": ("cell.png", CC0, "scikit-image, cell"),
    "clock": ("clock_motion.png", PUBLIC, "Stefan van der Walt"),
    "coffee": ("coffee.png", CC0, "Rachel Michetti"),
    "coins": ("coins.png", UNRESTRICTED, "Brooklyn Museum"),
    "galaxies": ("hubble_deep_field.jpg", PUBLIC, "NASA"),
    "grass": ("grass.png", CC0, "linolafett"),
    "gravel": ("gravel.png", CC0, "CC0Textures"),
    "retina": ("retina.jpg", CC0, "Häggström, Medical gallery 2014"),
    "rocket": ("rocket.jpg", PUBLIC, "SpaceX"),
    "tissue": ("ihc.png", UNRESTRICTED, "CMMI"),
}
"""Class -> file inside the wheel of scikit-image, licence, author. Files whose licence it does not state stay out."""

BACKGROUNDS = ("astronaut", "cameraman", "cat", "coffee", "coins", "gravel", "rocket", "tissue")
"""Photographs with something everywhere."""

CELL = 48
"""Side of a region in pixels; crops lie inside one region."""

SPLIT_OF_CELL = ("train", "test", "train", "validation", "train", "test", "train", "adapt", "train", "train")
"""Dealt out to the shuffled regions of every photograph in turn."""

FLAT = 5.0
"""A region whose grey values spread less (standard deviation, of 255) shows nothing and is left out."""


@cache
def photograph(name: str) -> Pixels:
    """A photograph as [height, width, 3]; at most 600 pixels high, so that details are comparable."""
    from PIL import Image

    with Image.open(python_data("skimage", "data", PHOTOGRAPHS[name][0])) as file:
        image = file.convert("RGB")
    if image.height > 600:
        image = image.resize((600 * image.width // image.height, 600), Image.Resampling.BOX)
    return np.asarray(image)


@cache
def regions(name: str, split: str) -> tuple[Pixels, ...]:
    """The regions [CELL, CELL, 3] of a photograph that belong to a split; which ones depends on the name only."""
    picture = photograph(name)
    rows, columns = picture.shape[0] // CELL, picture.shape[1] // CELL
    cells = [picture[CELL * r : CELL * (r + 1), CELL * c : CELL * (c + 1)] for r in range(rows) for c in range(columns)]
    cells = [cell for cell in cells if cell.mean(axis=2).std() > FLAT]
    order = np.random.default_rng(len(cells)).permutation(len(cells))
    return tuple(cells[i] for place, i in enumerate(order) if SPLIT_OF_CELL[place % 10] == split)


def crop(cells: tuple[Pixels, ...], random: np.random.Generator, smallest: int = 32) -> Pixels:
    """A random square of a random region, turned and mirrored, [32, 32, 3]."""
    from PIL import Image

    cell = cells[random.integers(len(cells))]
    side = int(random.integers(smallest, CELL + 1))
    top, left = random.integers(0, CELL - side + 1, size=2)
    square = cell[top : top + side, left : left + side]
    if side != 32:
        square = np.asarray(Image.fromarray(square).resize((32, 32), Image.Resampling.BILINEAR))
    square = square[:, ::-1] if random.random() < 0.5 else square
    return np.rot90(square, int(random.integers(4)))


def background(split: str, random: np.random.Generator) -> Pixels:
    """A patch of a photograph [32, 32, 3] from the regions of a split."""
    return crop(regions(BACKGROUNDS[random.integers(len(BACKGROUNDS))], split), random)


def texture(name: str, split: str, random: np.random.Generator) -> Pixels:
    """A crop of one photograph [32, 32, 3], its light changed a little so that brightness alone says less."""
    pixels = crop(regions(name, split), random).astype(np.float32)
    lit = 128 + (pixels - 128) * random.uniform(0.8, 1.2) + random.uniform(-25, 25)
    return lit.clip(0, 255).astype(np.uint8)
