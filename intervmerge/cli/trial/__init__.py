"""`intervmerge trial`: train one configuration of interventions on a merged base, without labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from intervmerge.cli.arguments import choose_base, open_suite
from intervmerge.cli.program.values import check_out
from intervmerge.cli.trial.flags import add_arguments, config_of

if TYPE_CHECKING:
    from intervmerge.records.record import Rung

__all__ = ["HELP", "add_arguments", "config_of", "run"]

HELP = "train one configuration of interventions and print accuracy by task"


def run(chosen: argparse.Namespace) -> int:
    """Merge, train, print."""
    config = config_of(chosen)
    suite = open_suite(chosen)
    from intervmerge.engines.batches import check_batch, sizes
    from intervmerge.interventions import place

    shape = suite.architecture  # refuse what does not fit before the sweep takes its time
    place(config.intervention, width=shape.width, num_blocks=shape.blocks, grid=shape.grid, features=shape.features)
    check_batch(sizes(suite, "adapt"), config.training.batch)
    if chosen.out is not None:
        check_out(chosen.out)
    base = choose_base(chosen, suite)

    from intervmerge.machine import Machine, cache_folder
    from intervmerge.stores.mapped import MappedStore
    from intervmerge.trial.bench import Bench
    from intervmerge.trial.run import run_trial
    from intervmerge.trial.scoring.references import references
    from intervmerge.views.terminal.tables import print_scores

    machine = Machine(
        device=chosen.device,
        cache_gib=chosen.cache_gib,
        step_gib=chosen.step_gib,
        cuda_graphs=chosen.cuda_graphs,
    )
    bench = Bench(base, machine, caches=MappedStore(cache_folder() / "bases", limit=2 * machine.cache_bytes))
    print(bench.caches.plan.words(suite))
    result = run_trial(config, bench, folder=chosen.out, on_rung=_print_rung)
    for split in ("validation", "test") if chosen.test else ("validation",):
        repaired = result.rungs[-1].scores if split == "validation" else bench.measure(result.interventions, split)
        columns = {**references(bench, split), "merged": bench.measure(None, split), "repaired": repaired}
        print_scores(f"{suite.name}, {base.label}, {split}", suite, columns)
    print(
        f"extra parameters: {result.extra_params:,} for {len(suite.tasks)} tasks; trained by the {result.engine} "
        f"engine, measured at the end by the exact one; {result.seconds:.1f} s"
    )
    return 0


def _print_rung(rung: Rung) -> None:
    print(
        f"step {rung.steps}: accuracy {100 * rung.accuracy:.1f} %, agreement with the teachers "
        f"{100 * rung.agreement:.1f} % (validation), {rung.seconds:.1f} s",
        flush=True,
    )
