"""`intervmerge suite convert`: a checkpoint in any form that circulates, to safetensors in canonical form."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intervmerge.suites.readers.canonical import Read

HELP = "read a checkpoint as it lies there and write its vision tower as safetensors"
SHOWN = 8
"""Dropped names of one reason that are printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, where to write, and what is needed to read it."""
    parser.description = (
        "Reads safetensors, torch.save files, whole pickled modules, TorchScript archives, transformers folders and "
        "PEFT LoRA folders, recognised by content. Nothing in a file is imported or run."
    )
    parser.add_argument("source", metavar="FILE|FOLDER|ID", help="or an id of the Hugging Face hub")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    parser.add_argument("--architecture", required=True, metavar="NAME", help="such as ViT-B-32-quickgelu")
    parser.add_argument(
        "--pretrained",
        metavar="FILE|FOLDER|ID",
        help="the pre-trained model, for a fine-tuned one: gives an adapter its base, and a projection to towers "
        "without; without this, the source is taken for the pre-trained model",
    )
    parser.add_argument("--lossy", action="store_true", help="take a fine-tuned model in half precision, losing of it")
    parser.add_argument("--head", type=int, metavar="CLASSES", help="the source is a zero-shot head of so many classes")


def run(chosen: argparse.Namespace) -> int:
    """Read, write, and say what was read, dropped, borrowed and lost."""
    from intervmerge.errors import ConfigError
    from intervmerge.files import sha256_of
    from intervmerge.remote.uris import check_here
    from intervmerge.suites.checkpoints import write_state
    from intervmerge.suites.encoder import open_clip_architecture
    from intervmerge.suites.readers.canonical import Target
    from intervmerge.suites.readers.head_files import read_head
    from intervmerge.suites.readers.table import read_checkpoint

    source = Path(chosen.source)
    check_here("--out", chosen.out)
    if chosen.out.exists():
        raise ConfigError("--out", chosen.out, "nothing is written over", "a file that is not there yet")
    architecture = open_clip_architecture(chosen.architecture)
    if chosen.head is not None:
        head = read_head(source, chosen.head, architecture.features)
        write_state(chosen.out, {"weight": head}, {"source": source.name, "source_sha256": sha256_of(source)})
        print(
            f"written: {chosen.out} (a head of {len(head)} classes, rows of norm {float(head.norm(dim=1).mean()):.4g})"
        )
        return 0
    base = read_checkpoint(chosen.pretrained, Target(architecture)).state if chosen.pretrained else None
    read = read_checkpoint(chosen.source, Target(architecture, base, chosen.lossy))
    metadata = {"source": source.name, "format": read.format, "architecture": chosen.architecture}
    metadata |= {"source_sha256": sha256_of(source)} if source.is_file() else {}
    write_state(chosen.out, read.state, metadata | {"half_precision_loss": f"{read.loss:.6g}"})
    for line in report(read):
        print(line)
    print(f"written: {chosen.out} ({len(read.state)} layers, fp32)")
    return 0


def report(read: Read) -> list[str]:
    """What a user should know of a file that was read, a line each."""
    stored = ", ".join(f"{count} as {dtype}" for dtype, count in read.stored_as.items())
    lines = [f"read: {read.format} in {read.container} ({stored})"]
    reasons: dict[str, list[str]] = {}
    for name, why in read.dropped.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"dropped, {why}: {', '.join(ascii(name)[1:-1] for name in names[:SHOWN])}{more}")
    lines += [f"borrowed: {layer}, {whence}" for layer, whence in read.borrowed.items()]
    lines += [f"LoRA: {len(read.low_rank)} pairs, applied to the pre-trained model"] if read.low_rank else []
    lines += [f"lost to half precision: {read.loss:.2%} of the task vector"] if read.loss else []
    return lines
