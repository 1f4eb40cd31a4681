"""A suite that lies on a store: fetched once, then opened as any other."""

from __future__ import annotations

from pathlib import Path

from intervmerge.errors import SuiteError
from intervmerge.remote.copies import Copy, copy_of, folder_of
from intervmerge.remote.store import check_inside
from intervmerge.suites.suite_file import files_of, read_suite_file

FILE = "suite.yaml"


def fetched(name: str | Path) -> Path:
    """The folder of a suite on this machine: that of a path itself; of a URI its copy, with what is new on the store.

    Raises:
        SuiteError: the store cannot be read, or holds no suite, or not all of it.
        ConfigError: suite.yaml has an unknown key or a wrong type, or names files outside its folder.
    """
    text = str(name)
    folder = folder_of(text.removesuffix(f"/{FILE}"))
    copy = copy_of(folder)
    if copy is None:
        return Path(name) if folder == Path(text.removesuffix(f"/{FILE}")) else folder
    try:
        with copy.alone():
            _fetch(copy)
    except OSError as error:
        rule, allowed = "a suite is fetched once, then read here", "a store that answers, and room for caches"
        raise SuiteError(copy.store.uri, str(error), rule, allowed) from error
    return folder


def _fetch(copy: Copy) -> None:
    objects, seen = copy.store.objects(), copy.seen

    def new(names: list[str]) -> list[str]:
        missing = sorted(set(names) - objects.keys())
        if missing:
            got = f"no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
            raise SuiteError(copy.store.uri, got, f"a suite is a folder with {FILE} and what that names", "all of it")
        same = {name for name in names if (copy.folder / name).is_file() and seen.get(name, ("",))[0] == objects[name]}
        return sorted(set(names) - same)

    copy.bring(new([FILE]), objects)
    names = files_of(read_suite_file(copy.folder / FILE))
    for name in names:
        check_inside(f"{copy.store.uri}/{FILE}", name)
    copy.bring(new(names), objects)
