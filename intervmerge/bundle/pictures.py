"""Images as people have them, in files or opened by Pillow, to the pixels that a bundle's encoder takes.

A bundle's architecture says their size; the shorter side is resized to it (bicubic) and the centre cropped, as
open_clip's validation transform does. No image is turned by its EXIF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from intervmerge.errors import ConfigError
from intervmerge.suites.datasets.preprocess import decoded, preprocess

SHOWN = 8
"""Unreadable files that are named."""


def pixels_of(images: Image | Sequence[Image], size: int) -> Tensor:
    """Pixels of one image or of several, uint8 [images, 3, size, size].

    Raises:
        ConfigError: something else, or an image that cannot be decoded.
    """
    allowed = f"PIL images, one or more, or uint8 [images, 3, {size}, {size}]"
    found = [images] if isinstance(images, Image) else images
    if not isinstance(found, Sequence) or not found or not all(isinstance(image, Image) for image in found):
        kinds = sorted({type(image).__name__ for image in found}) if isinstance(found, Sequence) else []
        got = f"{type(images).__name__} of {', '.join(kinds) or 'nothing'}"
        raise ConfigError("images", got, "they are pixels, or images of Pillow's", allowed)
    pixels = []
    for number, image in enumerate(found):
        try:
            pixels.append(preprocess(image, size))
        except Exception as error:  # Pillow decodes late, and its errors are of many kinds
            raise ConfigError(f"images, number {number}", _words(error), "an image can be decoded", allowed) from error
    return torch.stack(pixels)


def read_pictures(paths: Sequence[Path], size: int) -> Tensor:
    """Pixels of image files, uint8 [images, 3, size, size].

    Raises:
        ConfigError: files that are no images or cannot be read, all in one message.
    """
    pixels, faults = [], []
    for path in paths:
        try:
            if path.exists() and not path.is_file():  # a pipe, or a device, may never end
                raise ValueError("no file")
            pixels.append(decoded(path.read_bytes(), size))
        except Exception as error:  # as in pixels_of
            faults.append(f"{path} ({_words(error)})")
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        got = f"{'; '.join(faults[:SHOWN])}{more}"
        raise ConfigError("images", got, "every file is an image that can be read", "JPEG, PNG and what Pillow knows")
    return torch.stack(pixels)


def _words(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
