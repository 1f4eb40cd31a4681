"""`intervmerge space`: the shipped search spaces, and the format's schema."""

from __future__ import annotations

import argparse
import json

HELP = "list the shipped search spaces, or print the JSON schema of their format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands list and schema."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|schema")
    actions.add_parser("list", help="the shipped spaces")
    actions.add_parser("schema", help="JSON schema, for editors that check YAML")


def run(chosen: argparse.Namespace) -> int:
    """Print what was asked for."""
    from intervmerge.space.space import schema, shipped

    if chosen.action == "schema":
        print(json.dumps(schema(), indent=2))
    else:
        for name, path in shipped().items():
            print(f"{name}  {path}")
    return 0
