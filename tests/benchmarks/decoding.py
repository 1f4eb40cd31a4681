"""Seconds a thousand JPEGs, decoded into a file that is mapped, against a plain loop over torchvision's ImageFolder.

    python tests/benchmarks/decoding.py [--images 2000] [--processes 2] [--repeats 3] [--shape 375 500]

The images are noise over shades, of the shape of a photograph; both read them once before. The loop stacks what its
transform gives and keeps nothing on disk. `ratio` is loop over decode, medians of one run.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from intervmerge.suites.datasets import SplitRule, decode, open_source

SIZE = 224


def write(folder: Path, images: int, shape: tuple[int, int]) -> None:
    """JPEGs in two classes of train and test."""
    rows = np.linspace(0, 200, shape[0], dtype=np.float32)[:, None, None]
    for number in range(images):
        noise = np.random.default_rng(number).normal(0, 12, (*shape, 3))
        written = io.BytesIO()
        Image.fromarray((rows + noise + 20).clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=90)
        path = folder / ("test" if number % 4 == 0 else "train") / f"{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written.getvalue())


def loop(folder: Path) -> float:
    """Seconds of torchvision in a plain loop."""
    transform = Compose([Resize(SIZE, InterpolationMode.BICUBIC), CenterCrop(SIZE), PILToTensor()])
    start = time.perf_counter()
    for part in ("train", "test"):
        torch.stack([pixels for pixels, _ in ImageFolder(str(folder / part), transform)])
    return time.perf_counter() - start


def ours(folder: Path, path: Path, processes: int) -> float:
    """Seconds from the folder to the file."""
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    decode(open_source(folder), path, SIZE, SplitRule(), processes=processes)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        folder = Path(place) / "set"
        write(folder, chosen.images, tuple(chosen.shape))
        seconds: dict[str, list[float]] = {"loop": [], "1 process": [], f"{chosen.processes} processes": []}
        for _ in range(chosen.repeats):
            seconds["loop"].append(loop(folder))
            for name, processes in list(zip(seconds, (0, 1, chosen.processes), strict=True))[1:]:
                seconds[name].append(ours(folder, Path(place) / "images.arrow", processes))
        for name, found in seconds.items():
            each = 1_000 * median(found) / chosen.images
            ratio = median(seconds["loop"]) / median(found)
            print(
                f"{name}: {each:.2f} s a thousand images ({min(found):.2f}-{max(found):.2f} s a run), ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
