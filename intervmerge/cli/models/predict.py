"""`intervmerge predict`: the class of image files, by a bundle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from intervmerge.cli.program.values import whole
from intervmerge.errors import ConfigError
from intervmerge.quoting import as_text

HELP = "classify image files with an exported bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder that `intervmerge export` wrote")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG or what Pillow knows")
    parser.add_argument("--task", required=True, help="of all these images")
    parser.add_argument("--top", type=whole, default=1, metavar="K", help="the K most probable classes (default 1)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of words")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda, cuda:1 ...")


def run(chosen: argparse.Namespace) -> int:
    """Read all images, then print a row for each."""
    from intervmerge.bundle.model import load_bundle
    from intervmerge.bundle.pictures import read_pictures

    bundle = load_bundle(chosen.bundle, chosen.device)
    bundle.check_task(chosen.task)
    classes = bundle.classes[chosen.task]
    if not 1 <= chosen.top <= len(classes):
        raise ConfigError("--top", chosen.top, f"task {chosen.task} has {len(classes)} classes", f"1 to {len(classes)}")
    pixels = read_pictures(chosen.images, bundle.file.architecture.image_size)
    best = bundle(pixels, chosen.task).softmax(-1).topk(chosen.top)
    for path, probabilities, numbers in zip(chosen.images, best.values.tolist(), best.indices.tolist(), strict=True):
        found = [(classes[number], chance) for number, chance in zip(numbers, probabilities, strict=True)]
        if chosen.json:
            rows = [{"class": name, "probability": chance} for name, chance in found]
            print(json.dumps({"image": str(path), "task": chosen.task, "classes": rows}))
        else:
            print(as_text(f"{path}: {', '.join(f'{name} {100 * chance:.1f} %' for name, chance in found)}"))
    return 0
