"""Which images of a split are right, one bit an image, as text that a record can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed(right: NDArray[np.bool_]) -> str:
    """[images] as hex, four images a letter, the first in the highest bit."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, images: int) -> NDArray[np.bool_]:
    """[images]: what `packed` was given."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(np.bool_)
