"""`intervmerge trial`: train one configuration of interventions on a merged base, without labels."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.arguments import add_base_arguments, add_limits, choose_base, open_suite
from intervmerge.cli.program.values import check_out, number, whole

if TYPE_CHECKING:
    from intervmerge.records.record import Rung
    from intervmerge.trial.config import TrialConfig

SLICE_FLAGS = ("slice_width", "slice_start", "slice_shift")
INTERVENTION_FLAGS = ("formula", "rank", "blocks", "token", *SLICE_FLAGS, "start")
HELP = "train one configuration of interventions and print accuracy by task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command; those left out have the defaults of InterventionConfig, TrainingConfig and TrialConfig."""
    add_base_arguments(parser)
    what = parser.add_argument_group("interventions")
    what.add_argument("--formula", help="noreft, loreft, direft, nodireft, consreft, lobireft (default noreft)")
    what.add_argument("--rank", type=whole, help="at most half the slice width (default 1)")
    what.add_argument(
        "--blocks",
        help="all, every_2, first_6, last_3, middle_1; one block, 5, or several, 3,7; three or more digits of 0 and 1 "
        "are a mask (default all)",
    )
    what.add_argument("--token", help="class, first_patch, middle_patch, last_patch, patches, all (default class)")
    what.add_argument("--slice-width", help='elements, or a fraction of the width such as "1/12" (default 1/1)')
    what.add_argument("--slice-start", help="first element of the slice, or a fraction (default 0)")
    what.add_argument(
        "--slice-shift", help="elements from one block to the next, a fraction, or slice_width (default 0)"
    )
    what.add_argument("--start", help="identity, or paper for the authors' initial values (default identity)")
    how = parser.add_argument_group("training")
    how.add_argument("--steps", type=whole, help="optimizer steps (default 100)")
    how.add_argument("--batch", type=whole, help="images of each task a step (default 16)")
    how.add_argument("--learning-rate", type=number, help="of Adam (default 0.01)")
    how.add_argument("--rungs", type=whole, nargs="*", help="steps after which to measure, besides the last")
    how.add_argument("--engine", help="auto, exact, or stream (default auto: the class stream where it can be had)")
    add_limits(how)
    how.add_argument("--seed", type=whole, help="of initial values and batches (default 0)")
    parser.add_argument("--test", action="store_true", help="report on test too; choose by validation before you do")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write interventions.safetensors here at every rung")


def run(chosen: argparse.Namespace) -> int:
    """Merge, train, print."""
    config = config_of(chosen)
    suite = open_suite(chosen)
    from intervmerge.engines.batches import check_batch, sizes
    from intervmerge.interventions import place

    shape = suite.architecture  # refuse what does not fit before the sweep takes its time
    place(config.intervention, width=shape.width, num_blocks=shape.blocks, grid=shape.grid)
    check_batch(sizes(suite, "adapt"), config.training.batch)
    if chosen.out is not None:
        check_out(chosen.out)
    base = choose_base(chosen, suite)

    from intervmerge.machine import Machine, cache_folder
    from intervmerge.stores.mapped import MappedStore
    from intervmerge.trial.bench import Bench
    from intervmerge.trial.references import references
    from intervmerge.trial.run import run_trial
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


def config_of(chosen: argparse.Namespace) -> TrialConfig:
    """The configuration that the flags say; those left out have the settings' own defaults."""
    from intervmerge.settings import read_settings
    from intervmerge.trial.config import TrialConfig

    intervention = _given(chosen, *INTERVENTION_FLAGS)
    intervention |= {name: _number(str(intervention[name])) for name in SLICE_FLAGS if name in intervention}
    if "blocks" in intervention:
        intervention["blocks"] = _blocks(str(intervention["blocks"]))
    values = {
        "intervention": intervention,
        "training": _given(chosen, "steps", "batch", "learning_rate", "rungs", "engine"),
        **_given(chosen, "seed"),
    }
    return read_settings(TrialConfig, values, "trial")


def _blocks(text: str) -> object:
    """What --blocks says: a number is one block; only digits 0 and 1, three or more, are a mask, one a block."""
    if "," in text:
        return [_number(part) for part in text.split(",")]
    return text if re.fullmatch("[01]{3,}", text) else _number(text)


def _number(text: str) -> int | str:
    """A whole number where the text is one; otherwise the text, which the settings judge."""
    try:
        return int(text)
    except ValueError:
        return text


def _given(chosen: argparse.Namespace, *names: str) -> dict[str, object]:
    """The flags that were given; the others keep the defaults of the settings."""
    return {name: value for name in names if (value := getattr(chosen, name)) is not None}
