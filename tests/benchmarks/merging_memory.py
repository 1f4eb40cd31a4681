"""Peak private memory and time of merging memory-mapped task vectors.

    python tests/benchmarks/merging_memory.py --model vit_b32 --tasks 8 20

Each measurement is a process of its own, which maps the files, merges and samples its anonymous memory beyond what
it held before. Allowed are the pre-trained state, the merged one and three times the largest layer, of all tasks for
rules by matrix, in fp32; as the pre-trained state is mapped, not held, far less is used. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from intervmerge.merging import RULES, State, merge_states, task_vector
from intervmerge.merging.matrices.kernel import ByMatrix

MIB = 2**20


def vit_b32_shapes() -> dict[str, tuple[int, ...]]:
    """The vision tower of CLIP ViT-B/32 in open_clip: 152 layers, 87,849,216 parameters."""
    width, hidden = 768, 3072
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }
    return {
        "class_embedding": (width,),
        "positional_embedding": (50, width),
        "proj": (width, 512),
        "conv1.weight": (width, 3, 32, 32),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
        **{f"transformer.resblocks.{i}.{name}": shape for i in range(12) for name, shape in block.items()},
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
    }


MODELS: dict[str, dict[str, tuple[int, ...]]] = {
    "vit_b32": vit_b32_shapes(),
    "small": {f"layer.{i}": (1024, 1024) for i in range(5)},
    "small_blocks": {f"blocks.{i}.weight": (512, 512) for i in range(3)},
}


def write_states(folder: Path, model: str, tasks: int, dtype: torch.dtype) -> None:
    """A random pre-trained state in fp32 and random task vectors in `dtype`."""
    generator = torch.Generator().manual_seed(0)
    for name in ["pretrained", *(f"task_{i}" for i in range(tasks))]:
        scale, kind = (0.02, torch.float32) if name == "pretrained" else (5e-4, dtype)
        state = {
            layer: (torch.randn(shape, generator=generator) * scale).to(kind) for layer, shape in MODELS[model].items()
        }
        save_file(state, folder / f"{name}.safetensors")


def anonymous_mib() -> float:
    """Private memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@contextmanager
def peak_of_anonymous() -> Iterator[list[float]]:
    """A list of one number, in MiB, raised while the block runs."""
    peak, done = [anonymous_mib()], threading.Event()

    def sample() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], anonymous_mib())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        peak[0] = max(peak[0], anonymous_mib())
        done.set()
        sampler.join()


def measure(folder: Path, model: str, rule: str, tasks: int, lazy: bool) -> dict[str, object]:
    """One merge, in this process."""
    for factor in (torch.linalg.eigh, torch.linalg.svd):  # what the library keeps for itself is no rule's
        factor(torch.rand(512, 512, dtype=torch.float64))
    before = anonymous_mib()
    with peak_of_anonymous() as peak:
        pretrained = load_file(folder / "pretrained.safetensors")
        vectors: dict[str, State] = {}
        for task in (f"task_{i}" for i in range(tasks)):
            stored = load_file(folder / f"{task}.safetensors")
            vectors[task] = task_vector(pretrained, stored) if lazy else stored
        start, cpu = time.perf_counter(), time.process_time()
        merged = merge_states(pretrained, vectors, rule)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    layers = tasks if isinstance(RULES[rule].kernel, ByMatrix) else 1
    sizes = [4 * prod(shape) / MIB for shape in MODELS[model].values()]
    return {
        "rule": rule,
        "tasks": tasks,
        "layers": len(merged),
        "peak_mib": round(peak[0] - before, 1),
        "allowed_mib": round(2 * sum(sizes) + 3 * layers * max(sizes), 1),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
    }


def measure_apart(folder: Path, model: str, rule: str, tasks: int, lazy: bool) -> dict[str, object]:
    """One merge, in a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--tasks", str(tasks), "--rules", rule]
    command += ["--lazy"] if lazy else []
    done = subprocess.run([*command, "--within", str(folder)], check=True, capture_output=True, text=True)
    row: dict[str, object] = json.loads(done.stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="vit_b32")
    parser.add_argument("--tasks", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--rules", choices=RULES, nargs="+", default=list(RULES))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--lazy", action="store_true", help="take the files for fine-tuned states, not task vectors")
    parser.add_argument("--within", type=Path, help="measure one merge of the files in this folder, as JSON")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no table")
    args = parser.parse_args()
    if args.within:
        print(json.dumps(measure(args.within, args.model, args.rules[0], args.tasks[0], args.lazy)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_states(Path(folder), args.model, max(args.tasks), getattr(torch, args.dtype))
        if not args.json:
            print(f"{'rule':<22}{'tasks':>6}{'peak MiB':>10}{'allowed':>10}{'seconds':>9}{'cpu':>8}")
        for rule in args.rules:
            for tasks in args.tasks:
                row = measure_apart(Path(folder), args.model, rule, tasks, args.lazy)
                numbers = f"{row['peak_mib']:>10}{row['allowed_mib']:>10}{row['seconds']:>9}{row['cpu_seconds']:>8}"
                print(json.dumps(row) if args.json else f"{rule:<22}{tasks:>6}{numbers}", flush=True)


if __name__ == "__main__":
    main()
