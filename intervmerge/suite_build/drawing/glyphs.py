"""Characters of many typefaces as light glyphs on dark grounds; families of typefaces never cross splits."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from intervmerge.suite_build.drawing.photos import Pixels, background
from intervmerge.suite_build.drawing.sources import TYPEFACE_PACKAGES, debian_files

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CYRILLIC = "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ"
DIGITS = "0123456789"

UNREADABLE = ("Emoji", "Symbol", "Math", "Dingbat", "Smallcaps", "Monoisome", "Caliban", "D0500", "Music")
"""Parts of family names that draw something else than letters, or small capitals for letters."""

DRAWN_AFTER = {
    "Arimo": "Liberation",
    "Tinos": "Liberation",
    "Cousine": "Liberation",
    "Carlito": "Lato",
    "FreeSans": "Nimbus",
    "FreeSerif": "Nimbus",
    "FreeMono": "Nimbus",
    "Hack": "DejaVu",
    "Open": "Noto",
    "STIXGeneral": "STIX",
}
"""Families with the outlines of another one; both stay on one side."""

HELD_OUT_SHARE = 0.25
"""Share of the families that no training ever sees."""


@dataclass(frozen=True)
class Typeface:
    """One font file (`index` within a collection) of a family."""

    path: str
    family: str
    characters: frozenset[int]

    @property
    def held_out(self) -> bool:
        """Whether validation and test own this family: a hash of its name, so that no list need be stored."""
        return zlib.crc32(self.family.encode()) % 1000 < 1000 * HELD_OUT_SHARE


@cache
def typefaces(package: str) -> tuple[Typeface, ...]:
    """The typefaces of one Debian package, by file name."""
    from fontTools.ttLib import TTFont

    found = []
    for path in debian_files(package, (".ttf", ".otf")):
        with TTFont(path, lazy=True) as font:
            family = str(font["name"].getBestFamilyName())
            if not any(word in family for word in UNREADABLE):
                found.append(Typeface(str(path), kinship(family), frozenset(font.getBestCmap() or ())))
    return tuple(found)


def kinship(family: str) -> str:
    """The first word of a family's name (`DejaVu Sans Mono` and `DejaVu Serif` are kin), or whom it was drawn after."""
    word = family.split()[0].split("-")[0]
    return DRAWN_AFTER.get(word, word)


@cache
def readers(alphabet: str, split: str) -> tuple[tuple[Typeface, ...], ...]:
    """Families (each a tuple of typefaces) of a split that have every character of the alphabet, by name."""
    wanted = frozenset(map(ord, alphabet))
    families: dict[str, list[Typeface]] = {}
    for package in TYPEFACE_PACKAGES:
        for face in typefaces(package):
            if wanted <= face.characters and face.held_out == (split != "train"):
                families.setdefault(face.family, []).append(face)
    return tuple(tuple(families[name]) for name in sorted(families))


def pick_typeface(families: Sequence[Sequence[Typeface]], random: np.random.Generator) -> Typeface:
    """A typeface; large families come up more often, but only as the square root of their size."""
    weights = np.sqrt([len(family) for family in families])
    family = families[int(random.choice(len(families), p=weights / weights.sum()))]
    return family[int(random.integers(len(family)))]


def glyph(character: str, alphabet: str, split: str, photographs: float, random: np.random.Generator) -> Pixels:
    """One character [32, 32, 3], light on a dark plain ground or, in a share of cases, on a photograph."""
    mask = letter_mask(character, pick_typeface(readers(alphabet, split), random).path, random)
    return lay(mask, photographs, split, random)


def house_number(digit: str, split: str, random: np.random.Generator) -> Pixels:
    """A digit [32, 32, 3] with neighbours that the frame cuts off, on a dark photograph."""
    path = pick_typeface(readers(DIGITS, split), random).path
    left, right = (DIGITS[i] for i in random.integers(10, size=2))
    return lay(letter_mask(digit, path, random, left, right), 1.0, split, random)


def letter_mask(character: str, path: str, random: np.random.Generator, left: str = "", right: str = "") -> np.ndarray:
    """How much of each pixel the ink covers, [32, 32] in 0..1; the character's own box is in the middle."""
    from PIL import Image, ImageDraw, ImageFilter

    tall = 4 * random.uniform(19, 25)  # drawn four times too large, then reduced
    font = sized(path, tall)
    box = font.getbbox(character)
    ink_width, ink_height = box[2] - box[0], box[3] - box[1]
    if ink_width > 112:  # wide capitals of wide typefaces
        font = sized(path, tall * 112 / ink_width)
        box = font.getbbox(character)
        ink_width, ink_height = box[2] - box[0], box[3] - box[1]
    shift_x, shift_y = 4 * random.uniform(-2, 2, size=2)
    x, y = 64 - box[0] - ink_width / 2 + shift_x, 64 - box[1] - ink_height / 2 + shift_y
    canvas = Image.new("L", (128, 128))
    draw = ImageDraw.Draw(canvas)
    draw.text((x, y), character, fill=255, font=font)
    gap = 4 * random.uniform(0.5, 2.5)
    if left:
        draw.text((x - gap - font.getlength(left), y), left, fill=255, font=font)
    if right:
        draw.text((x + gap + font.getlength(character), y), right, fill=255, font=font)
    canvas = canvas.rotate(float(random.uniform(-8, 8)), Image.Resampling.BILINEAR)
    canvas = canvas.filter(ImageFilter.GaussianBlur(4 * float(random.uniform(0, 0.6))))
    return np.asarray(canvas.resize((32, 32), Image.Resampling.BOX), np.float32) / 255


@cache
def font_of(path: str, size: int) -> FreeTypeFont:
    """A font at a size in pixels, read once."""
    from PIL import ImageFont

    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def sized(path: str, capital_height: float) -> FreeTypeFont:
    """The font at the size where its H (or 0) is so many pixels high, in steps of two points."""
    top, bottom = font_of(path, 100).getbbox("H0")[1::2]
    return font_of(path, max(16, 2 * round(50 * capital_height / max(bottom - top, 30))))


def lay(mask: np.ndarray, photographs: float, split: str, random: np.random.Generator) -> Pixels:
    """Light ink (170 to 255) over a dark ground (0 to 70) or a photograph at 15 to 45 % of its light."""
    if random.random() < photographs:
        ground = background(split, random).astype(np.float32) * random.uniform(0.15, 0.45)
    else:
        ground = np.full((32, 32, 3), random.uniform(0, 70, size=3), np.float32)
    ink = random.uniform(170, 255) + random.uniform(-25, 25, size=3)
    lit: Pixels = (ground + mask[..., None] * (ink - ground)).clip(0, 255).astype(np.uint8)
    return lit
