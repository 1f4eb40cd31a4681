from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch
from odd_suite import write_odd_suite

from intervmerge.bases.merged import merge
from intervmerge.engines.caches import NO_CACHES
from intervmerge.session.session import ENVIRONMENT, LOCAL
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.bench import Bench

torch.set_num_threads(2)
os.environ.update({**ENVIRONMENT, **LOCAL})  # before any test imports Ray
_CACHES = tempfile.TemporaryDirectory(prefix="intervmerge-caches-")  # gone with this process
os.environ["XDG_CACHE_HOME"] = _CACHES.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `gpu` runs where there is one."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite on disk that the tests only read."""
    return write_odd_suite(tmp_path_factory.mktemp("odd"))


@pytest.fixture
def broken_folder(odd_folder: Path, tmp_path: Path) -> Path:
    """A copy of the suite on disk that a test may break."""
    return Path(shutil.copytree(odd_folder, tmp_path / "broken"))


@pytest.fixture(scope="session")
def odd(odd_folder: Path) -> Suite:
    return load_suite(odd_folder)


@pytest.fixture(scope="module")
def bench(odd: Suite) -> Bench:
    return Bench(merge(odd, "task_arithmetic", scaling=0.3), "cpu")


@pytest.fixture(scope="module")
def uncached(bench: Bench) -> Bench:
    """The same base without caches."""
    return Bench(bench.base, "cpu", plan=NO_CACHES)


# every run tries the same, however loaded the machine is
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None, print_blob=False)
hypothesis.settings.load_profile("same")
