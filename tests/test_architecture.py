"""The house keeps its shape: imports go one way, and each library has its door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "intervmerge"
ROOMS = (
    *("errors", "settings", "seeding", "quoting", "finite", "files", "disk", "machine", "processes", "mlflow_uris"),
    *("remote", "stores"),
    *("pareto", "merging", "interventions", "records", "suites", "engines", "bases", "training", "trial", "space"),
    *("study", "views", "session", "watchdog", "workers", "search", "bundle", "analysis", "paper", "recorded"),
    *("suite_build", "cli", "__main__"),
)
"""From the ground up; a room imports only rooms before it."""
DOORS = {
    "ray": ("session/", "watchdog/", "workers/", "search/"),
    "optuna": ("space/", "study/", "search/"),
    "mlflow": ("views/runs.py", "bundle/"),
    "open_clip": ("suites/", "training/", "suite_build/"),
    "torchvision": ("suites/", "training/", "suite_build/"),
    "PIL": ("suites/datasets/preprocess.py", "suite_build/", "bundle/"),
    "fsspec": ("remote/",),
    "scipy": ("suites/datasets/sources/svhn.py", "analysis/tangent/interfering.py", "paper/claims/verdicts.py"),
    "skimage": ("suite_build/",),
    "fontTools": ("suite_build/",),
    "mlxtend": ("suite_build/",),
    "resvg_py": ("suite_build/",),
}
"""Library to the only places that may import it."""
LINES, ROOM_LINES = 300, 1_000
"""Of a file, and of a room, at most."""
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "base", "core"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, relative imports made absolute; types count too."""
    package = ("intervmerge", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def inner_imports(path: Path) -> set[str]:
    """The files of the package that a file imports, as dotted names."""
    known = {".".join(("intervmerge", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in FILES}
    return {name for name in imports(path) if name in known}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_room_imports_only_rooms_before_it(path: Path) -> None:
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("intervmerge.")}
    later = {other for other in rooms - {room} if ROOMS.index(other) > ROOMS.index(room)}
    assert not later, f"{room} imports {later}, which the list has after it"


def test_the_readme_draws_every_room() -> None:
    drawn = (PACKAGE.parent / "README.md").read_text(encoding="utf-8").split("```\nintervmerge/\n")[1].split("```")[0]
    names = [line.split()[0].rstrip("/").removesuffix(".py") for line in drawn.splitlines() if line.startswith("  ")]
    assert names == [room for room in ROOMS if room in {room_of(path) for path in FILES} - {"__main__"}]


def test_no_circle_of_imports() -> None:
    graph = {".".join(("intervmerge", *p.relative_to(PACKAGE).with_suffix("").parts)): inner_imports(p) for p in FILES}
    graph.pop("intervmerge.__init__")  # lazy: it names its rooms for type checkers only
    while leaves := {name for name, below in graph.items() if not below & graph.keys()}:
        graph = {name: below for name, below in graph.items() if name not in leaves}
    assert not graph, f"in or above a circle: {sorted(graph)}"


@pytest.mark.parametrize("library", DOORS)
def test_a_library_enters_by_its_door_only(library: str) -> None:
    users = [str(p.relative_to(PACKAGE)) for p in FILES if any(name.split(".")[0] == library for name in imports(p))]
    assert not [user for user in users if not user.startswith(DOORS[library])]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_short_and_named_for_what_it_holds(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES
    assert path.stem not in FORBIDDEN_NAMES


def test_no_room_outgrows_what_one_can_know() -> None:
    sizes: dict[Path, int] = {}
    for path in FILES:
        sizes[path.parent] = sizes.get(path.parent, 0) + len(path.read_text(encoding="utf-8").splitlines())
    assert not {room.name: lines for room, lines in sizes.items() if lines > ROOM_LINES and room != PACKAGE}


def test_functions_are_at_most_fifty_lines_without_docstring() -> None:
    long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (node.end_lineno or 0) - body[0].lineno >= 50:
                    long.append(f"{path.name}:{node.name}")
    assert not long


def test_importing_the_package_is_silent_and_loads_no_framework() -> None:
    code = "import intervmerge, sys; print([m for m in ('torch', 'ray', 'optuna', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_help_loads_no_framework() -> None:
    code = (
        "import sys; from intervmerge.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_public_names_are_those_that_all_lists() -> None:
    import intervmerge

    assert sorted(intervmerge._HOMES) == sorted(intervmerge.__all__) == dir(intervmerge)
    assert all(getattr(intervmerge, name) is not None for name in intervmerge.__all__)
