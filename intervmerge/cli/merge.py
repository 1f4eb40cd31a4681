"""`intervmerge merge`: merge a suite's fine-tuned models and measure the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from intervmerge.cli.arguments import add_base_arguments, choose_base, open_suite
from intervmerge.cli.program.values import check_out_file

HELP = "merge fine-tuned models and print accuracy by task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_base_arguments(parser)
    parser.add_argument(
        "--split", default="validation", choices=["validation", "test"], help="which images to report on"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the merged weights here, as safetensors")


def run(chosen: argparse.Namespace) -> int:
    """Merge, print, and write if asked."""
    suite = open_suite(chosen)
    if chosen.out is not None:
        check_out_file(chosen.out)
    base = choose_base(chosen, suite)

    from intervmerge.engines.caches import NO_CACHES
    from intervmerge.suites.checkpoints import write_state
    from intervmerge.trial.bench import Bench
    from intervmerge.trial.scoring.references import references
    from intervmerge.views.terminal.tables import print_scores

    bench = Bench(base, chosen.device, plan=NO_CACHES)
    columns = {**references(bench, chosen.split), "merged": bench.measure(None, chosen.split)}
    print_scores(f"{suite.name}, {base.label}, {chosen.split}", suite, columns)
    if chosen.out is not None:
        write_state(chosen.out, base.state, {"base": base.label, "fingerprint": base.fingerprint})
        print(f"merged weights: {chosen.out}")
    return 0
