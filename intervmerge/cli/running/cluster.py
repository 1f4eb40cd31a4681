"""`intervmerge cluster check`: what a cluster lacks, before hours are spent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from intervmerge.cli.program.values import number
from intervmerge.errors import ConfigError

if TYPE_CHECKING:
    from intervmerge.workers.inspection.demands import Finding

HELP = "look at every node of a Ray cluster: what it lacks for a search"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-command check."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="check")
    check = actions.add_parser("check", help=HELP, description=HELP + "; exit code 1 if it lacks something.")
    check.add_argument("--address", help="of the cluster, or auto (default: that of the Ray job that this is)")
    check.add_argument("--suite", metavar="NAME|PATH", help="whose need of memory is compared with what there is")
    check.add_argument("--gpus-per-trial", type=number, default=1.0, metavar="SHARE", help="of a GPU (default 1)")
    check.add_argument("--out", type=Path, metavar="DIR", help="the study's folder, which the driver is to write")
    check.add_argument("--mlflow", metavar="URI", help="the tracking server that the driver is to reach")


def run(chosen: argparse.Namespace) -> int:
    """Ask, and print a table a node; 1 if anything lacks."""
    from intervmerge.session.session import ray_session
    from intervmerge.session.whereabouts import address_here
    from intervmerge.suites.suite import load_suite

    address = address_here(chosen.address)
    if address is None:
        raise ConfigError("--address", "nothing", "a cluster is looked at", "HOST:6379, auto, or inside a Ray job")
    if not 0 < chosen.gpus_per_trial <= 1:
        raise ConfigError("--gpus-per-trial", chosen.gpus_per_trial, "it is a share of a GPU", "more than 0, at most 1")
    suite = None if chosen.suite is None else load_suite(chosen.suite)
    with ray_session(address, 1):
        from intervmerge.workers.inspection.demands import Needs, least_gib, of_node, storage, tracking
        from intervmerge.workers.inspection.facts import Facts, of_all_nodes, versions

        needs = Needs(versions(), 0.0 if suite is None else least_gib(suite), chosen.gpus_per_trial)
        tables: dict[str, list[Finding]] = {}
        for node, found in of_all_nodes().items():
            name = f"node {node[:8]}" + (f" on {found.host}" if isinstance(found, Facts) else "")
            tables[name] = of_node(found, needs)
    own = [storage(chosen.out)] if chosen.out is not None else []
    own += [tracking(chosen.mlflow)] if chosen.mlflow is not None else []
    if own:
        tables["driver"] = own
    return report(tables)


def report(tables: dict[str, list[Finding]]) -> int:
    """Print what was found; 1 if anything lacks."""
    for name, findings in tables.items():
        print_findings(name, findings)
    lacking = [f"{name}: {finding.what}" for name, findings in tables.items() for finding in findings if finding.lacks]
    print("lacking: " + ", ".join(lacking) if lacking else "nothing is lacking")
    return 1 if lacking else 0


def print_findings(title: str, findings: Sequence[Finding]) -> None:
    """A table of what was looked at, what was found and what is needed."""
    from rich.table import Table

    from intervmerge.views.terminal import Terminal

    table = Table(title=title)
    for column in ("", "found", "needed", "lacks"):
        table.add_column(column)
    for finding in findings:
        table.add_row(finding.what, finding.found, finding.needed, "LACKS" if finding.lacks else "")
    Terminal().print(table)
