"""`intervmerge suite check`: is a suite what it says, and if not, why?"""

from __future__ import annotations

import argparse

from intervmerge.cli.program.values import whole

HELP = "verify hashes, values, splits, heads and accuracy of a suite, and name the likely cause of what is wrong"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite, --repair, --images and --device."""
    parser.add_argument("suite", metavar="NAME|PATH")
    words = "first write the hashes of its files, as they are now, into suite.yaml"
    parser.add_argument("--repair", action="store_true", help=words)
    parser.add_argument("--images", type=whole, default=1_000, help="labelled images a task, at most (default 1000)")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda, cuda:1 ...")


def run(chosen: argparse.Namespace) -> int:
    """Print a table and every finding; 1 if there is one."""
    from dataclasses import replace

    from intervmerge.errors import ConfigError
    from intervmerge.machine import find_device
    from intervmerge.remote.copies import copy_of, shown
    from intervmerge.suites.doctor.check import check_files, check_hashes
    from intervmerge.suites.doctor.diagnosis import diagnose
    from intervmerge.suites.doctor.examination import Examination
    from intervmerge.suites.suite import load_suite, suite_path
    from intervmerge.suites.suite_file import read_suite_file, write_hashes
    from intervmerge.views.terminal import Terminal
    from intervmerge.views.terminal.health import health_table

    if chosen.images < 1:
        raise ConfigError("--images", chosen.images, "models are measured on images", "1 or more")
    suite = load_suite(chosen.suite)
    wrong = list(check_hashes(suite))
    if chosen.repair and wrong:
        path = suite_path(chosen.suite)
        if copy_of(path.parent) is not None:
            raise ConfigError("--repair", shown(path.parent), "what lies on a store is only read", "the suite itself")
        write_hashes(path, suite.hashes)
        print(*wrong, f"{path}: {len(wrong)} hashes are now those of the files", sep="\n")
        suite = replace(suite, file=read_suite_file(path))
        wrong = []
    console = Terminal()
    device = find_device(chosen.device)
    with console.status("opening") as status:
        seen = Examination(suite, chosen.images, device=device, report=status.update)
        diagnosis = diagnose(seen)
    findings = [*check_files(suite), *diagnosis.findings]
    console.print(health_table(suite, diagnosis))
    for finding in findings:
        print(finding)
    tasks = f"{len(suite.tasks)} tasks, {suite.architecture.blocks} blocks of width {suite.architecture.width}"
    print(f"{suite.name} ({tasks}, fingerprint {suite.fingerprint}): {len(findings)} findings")
    if wrong:
        print("If these files are the right ones, --repair writes their hashes into suite.yaml.")
    return 1 if findings else 0
