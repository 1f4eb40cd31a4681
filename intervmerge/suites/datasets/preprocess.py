"""From an image of any mode and shape to the pixels that CLIP sees, as open_clip's own validation transform makes them.

It resizes before it converts to RGB, and turns no image by its EXIF: so do the published figures.
"""

from __future__ import annotations

import io
import warnings
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Lambda, PILToTensor, Resize


@cache
def _transform(size: int) -> Compose:
    resize = Resize(size, InterpolationMode.BICUBIC)
    return Compose([resize, CenterCrop(size), Lambda(lambda image: image.convert("RGB")), PILToTensor()])


def preprocess(image: Image.Image, size: int) -> Tensor:
    """Pixels of an image, uint8 [3, size, size]: shorter side resized (bicubic), centre cropped, then RGB.

    Divided by 255 and normalised they are, to the bit, what `open_clip.image_transform(size, is_train=False)` gives.
    """
    pixels: Tensor = _transform(size)(image)
    return pixels


def decoded(image: bytes | np.ndarray, size: int) -> Tensor:
    """Pixels, uint8 [3, size, size], of an image file's bytes, or of an array [height, width] or [height, width, 3].

    Raises:
        Exception: it is damaged; Pillow's errors are of many kinds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata and palettes, which change no pixel
        if isinstance(image, np.ndarray):
            return preprocess(Image.fromarray(image), size)
        try:
            opened = Image.open(io.BytesIO(image))
        except UnidentifiedImageError as error:  # whose words hold an address
            raise ValueError("no image of a format that Pillow knows") from error
        with opened:
            return preprocess(opened, size)
