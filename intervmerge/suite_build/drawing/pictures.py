"""Flags and emoji as pictures on photographs: warped, lit, a little noisy."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np

from intervmerge.suite_build.drawing.photos import Pixels, background
from intervmerge.suite_build.drawing.sources import debian_files

CUTOUT = 64
"""Longer side of a picture before it is warped, in pixels."""


@cache
def flag(code: str, folder: Path) -> Pixels:
    """A flag as [48, 64, 4]."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(folder / "flags" / "4x3" / f"{code}.svg"), width=256)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return np.asarray(image.resize((CUTOUT, CUTOUT * 3 // 4), Image.Resampling.BOX))


@cache
def emoji(character: str) -> Pixels:
    """An emoji as [64, 64, 4]."""
    from PIL import Image, ImageDraw, ImageFont

    path = next(p for p in debian_files("fonts-noto-color-emoji", ("NotoColorEmoji.ttf",)))
    font = ImageFont.truetype(str(path), 109, layout_engine=ImageFont.Layout.BASIC)  # the one size it has
    image = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(image).text((0, 0), character, font=font, embedded_color=True)
    box = image.getbbox()
    assert box is not None, character
    return np.asarray(image.crop(box).resize((CUTOUT, CUTOUT), Image.Resampling.BOX))


def scene(cutout: Pixels, split: str, random: np.random.Generator, mirror: bool) -> Pixels:
    """The picture somewhere on a photograph [32, 32, 3]: sheared, turned, shrunk, under another light."""
    from PIL import Image

    image = Image.fromarray(cutout).convert("RGBa")  # premultiplied, so that edges do not bleed
    matrix = inverse_warp(cutout.shape[1], cutout.shape[0], random, mirror)
    large = image.transform((64, 64), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    small = np.asarray(large.resize((32, 32), Image.Resampling.BOX), np.float32)
    light = random.uniform(0.55, 1.15) * random.uniform(0.85, 1.15, size=3)
    ground = background(split, random).astype(np.float32) * random.uniform(0.4, 1.0)
    pixels = small[..., :3] * light + ground * (1 - small[..., 3:] / 255)
    noise = random.normal(0, random.uniform(0, 10), size=(32, 32, 1))
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def inverse_warp(width: int, height: int, random: np.random.Generator, mirror: bool) -> tuple[float, ...]:
    """From pixels of the 64x64 scene to pixels of the cutout: the six numbers of an affine map."""
    turn, shear = random.uniform(-0.35, 0.35), random.uniform(-0.25, 0.25)
    size = random.uniform(0.55, 0.95) * 64 / max(width, height)
    stretch = random.uniform(0.85, 1.18)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forward = rotation @ np.array([[size * stretch, shear * size], [0.0, size / stretch]])
    if mirror and random.random() < 0.5:
        forward[:, 0] *= -1
    inverse = np.linalg.inv(forward)
    centre = np.array([32.0, 32.0]) + random.uniform(-5, 5, size=2)
    offset = np.array([width / 2, height / 2]) - inverse @ centre
    return (*inverse[0], offset[0], *inverse[1], offset[1])
