"""Where tensors live: computed once, whole or not at all, whatever ends in the middle and whoever else is there."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intervmerge.bases.merged import MergedBase, merge
from intervmerge.engines.caches import STREAMED, CachedSplit, CachePlan, Caches
from intervmerge.errors import DiskError
from intervmerge.files import held_by_another, locked
from intervmerge.machine import Machine
from intervmerge.stores import mapped
from intervmerge.stores.layered import LayeredStore
from intervmerge.stores.mapped import FILLING, MANIFEST, MappedStore
from intervmerge.stores.store import InProcessStore
from intervmerge.suites.suite import Suite
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial


@pytest.fixture(params=["process", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> InProcessStore | MappedStore:
    return InProcessStore() if request.param == "process" else MappedStore(tmp_path / "store")


def folders(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.is_dir())


LAYOUT = {"a": ((3, 2), torch.float32), "b": ((4,), torch.bfloat16), "c": ((2,), torch.int64)}


def write(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + len(name) / 2)


def test_a_store_computes_once_and_gives_what_was_written(store: InProcessStore | MappedStore) -> None:
    expected = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in LAYOUT.items()}
    write(expected)
    for fill in (write, lambda tensors: pytest.fail("computed twice")):
        found = store.fill("key", LAYOUT, fill)
        assert set(found) == set(LAYOUT)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert torch.equal(store.get("other", lambda: torch.ones(2)), torch.ones(2))
    assert torch.equal(store.get("other", lambda: torch.zeros(2)), torch.ones(2))


def test_files_outlive_the_store_and_what_a_process_writes_reaches_no_other(tmp_path: Path) -> None:
    MappedStore(tmp_path).fill("key", LAYOUT, write)
    found = MappedStore(tmp_path).fill("key", LAYOUT, lambda tensors: pytest.fail("computed twice"))
    found["a"].zero_()
    again = MappedStore(tmp_path).fill("key", LAYOUT, write)
    assert again["a"].sum() > 0


def test_the_longest_unused_keys_go_when_room_is_needed_and_maps_of_them_stay(tmp_path: Path) -> None:
    layout = {"x": ((1000,), torch.float32)}
    store = MappedStore(tmp_path, limit=11_000)
    first = store.fill("first", layout, lambda tensors: tensors["x"].fill_(1))  # type: ignore[arg-type, return-value]
    store.fill("second", layout, write)
    time.sleep(0.05)  # clocks of files are coarse
    store.fill("first", layout, write)  # used again: the second is now the oldest
    store.fill("third", layout, write)
    computed = []
    store.fill("first", layout, lambda tensors: computed.append("first"))
    store.fill("second", layout, lambda tensors: computed.append("second"))
    assert computed == ["second"]
    assert first["x"].eq(1).all()


def test_a_fill_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(tensors: Mapping[str, Tensor]) -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        MappedStore(tmp_path).fill("key", LAYOUT, fail)
    assert folders(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_raises_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        MappedStore(tmp_path / "file" / "store").fill("key", LAYOUT, lambda tensors: pytest.fail("computed"))


def test_one_computes_while_the_others_wait(tmp_path: Path) -> None:
    computed: list[int] = []

    def fill(tensors: Mapping[str, Tensor]) -> None:
        computed.append(1)
        write(tensors)

    threads = [threading.Thread(target=lambda: MappedStore(tmp_path).fill("key", LAYOUT, fill)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]


# ---- a key is what its manifest says


def the_key(store: Path) -> Path:
    """The folder of the only key."""
    (name,) = folders(store)
    return store / name


DAMAGES = {
    "a tensor is missing": lambda place: (place / "b.npy").unlink(),
    "a tensor is cut short": lambda place: os.truncate(place / "a.npy", (place / "a.npy").stat().st_size - 4),
    "a tensor is of another shape": lambda place: shutil.copy(place / "b.npy", place / "a.npy"),
    "the manifest is missing": lambda place: (place / MANIFEST).unlink(),
    "the manifest is cut short": lambda place: os.truncate(place / MANIFEST, 20),
    "the manifest is empty": lambda place: (place / MANIFEST).write_text("{}"),
    "the manifest is of another format": lambda place: (place / MANIFEST).write_text(
        json.dumps({**json.loads((place / MANIFEST).read_text()), "format": 1})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_key_that_is_not_whole_is_computed_again(tmp_path: Path, damage: str) -> None:
    store = MappedStore(tmp_path)
    whole = {name: tensor.tolist() for name, tensor in store.fill("key", LAYOUT, write).items()}
    DAMAGES[damage](the_key(tmp_path))
    computed: list[int] = []
    found = store.fill("key", LAYOUT, lambda tensors: (computed.append(1), write(tensors))[1])  # type: ignore[func-returns-value]
    assert computed == [1]
    assert {name: tensor.tolist() for name, tensor in found.items()} == whole
    assert store.fill("key", LAYOUT, lambda tensors: pytest.fail("computed twice")).keys() == LAYOUT.keys()


def test_a_key_of_another_layout_is_another_value(tmp_path: Path) -> None:
    store = MappedStore(tmp_path)
    store.fill("key", LAYOUT, write)
    fewer = {"a": LAYOUT["a"]}
    assert store.fill("key", fewer, write).keys() == fewer.keys()


def test_what_is_written_to_disk_is_the_sum_that_the_manifest_says(tmp_path: Path) -> None:
    MappedStore(tmp_path).fill("key", LAYOUT, write)
    place = the_key(tmp_path)
    sizes = {name: size for name, (_, _, size) in json.loads((place / MANIFEST).read_text())["tensors"].items()}
    assert sizes == {path.stem: path.stat().st_size for path in place.glob("*.npy")}


def test_folders_of_the_first_format_and_its_locks_go_with_the_next_fill(tmp_path: Path) -> None:
    old = tmp_path / ("0" * 32)
    old.mkdir()
    (old / "class.npy").write_bytes(b"as the version before wrote it")
    (tmp_path / f"{'0' * 32}.lock").touch()
    (tmp_path / f".{'1' * 32}").mkdir()
    MappedStore(tmp_path).fill("key", LAYOUT, write)
    assert len(folders(tmp_path)) == 1
    assert not list(tmp_path.glob("*.lock"))


# ---- who dies


FILLER = """
import sys, time
from pathlib import Path
import torch
from intervmerge.stores.mapped import MappedStore
def fill(tensors):
    tensors["x"][:10] = 1
    print("filling", flush=True)
    time.sleep(600)
MappedStore(Path(sys.argv[1])).fill("key", {"x": ((1000,), torch.float32)}, fill)
"""


def killed_filler(folder: Path) -> subprocess.Popen[str]:
    """A process that has begun to fill `key`."""
    process = subprocess.Popen([sys.executable, "-c", FILLER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "filling\n"
    return process


@pytest.mark.parametrize("key", ["key", "another"])
def test_what_a_killed_process_was_filling_is_swept_and_what_a_living_one_fills_is_not(
    tmp_path: Path, key: str
) -> None:
    store, layout = MappedStore(tmp_path), {"x": ((1000,), torch.float32)}
    process = killed_filler(tmp_path)
    with process:
        MappedStore(tmp_path).fill("meanwhile", layout, write)
        assert [name for name in folders(tmp_path) if name.endswith(FILLING)] != []
        process.send_signal(signal.SIGKILL)
    store.fill(key, layout, write)
    assert [name for name in folders(tmp_path) if name.endswith(FILLING)] == []
    assert len(folders(tmp_path)) == 2


def test_who_waits_for_a_process_that_is_killed_computes_instead(tmp_path: Path) -> None:
    layout = {"x": ((1000,), torch.float32)}
    found: list[Mapping[str, Tensor]] = []
    with killed_filler(tmp_path) as process:
        waiting = threading.Thread(target=lambda: found.append(MappedStore(tmp_path).fill("key", layout, write)))
        waiting.start()
        time.sleep(0.2)
        assert found == []
        process.send_signal(signal.SIGKILL)
        waiting.join(60)
    assert found[0]["x"][999] == 999.5


def test_a_process_killed_before_the_last_rename_leaves_a_key_that_is_filled_again(tmp_path: Path) -> None:
    store = MappedStore(tmp_path)
    store.fill("key", LAYOUT, write)
    place = the_key(tmp_path)
    place.rename(place.with_suffix(FILLING))  # the manifest is there, the name is not yet
    assert store.fill("key", LAYOUT, write).keys() == LAYOUT.keys()
    assert folders(tmp_path) == [place.name]


def test_a_lock_of_another_is_never_taken_away(tmp_path: Path) -> None:
    """Bases that read images are made beside caches, each under a lock of its own."""
    theirs = tmp_path / f"{'2' * 32}.lock"
    with locked(theirs):
        MappedStore(tmp_path).fill("key", LAYOUT, write)
        assert held_by_another(theirs)


def test_no_file_is_left_but_keys_and_one_lock(tmp_path: Path) -> None:
    store = MappedStore(tmp_path, limit=30_000)
    for number in range(20):
        store.fill(f"key {number}", {"x": ((1000,), torch.float32)}, write)
    assert [path.name for path in tmp_path.iterdir() if not path.is_dir()] == ["lock"]
    assert len(folders(tmp_path)) < 8


# ---- several at once


def fill_and_read(folder: str, own: int, seen: multiprocessing.Queue[tuple[str, int]]) -> None:
    """Fill and open keys in turn; says what it could not read as it was written."""
    store, layout = MappedStore(Path(folder), limit=40_000), {"x": ((1000,), torch.float32), "y": ((9,), torch.int64)}
    for turn in range(60):
        number = (turn * (own + 1)) % 12

        def fill(tensors: Mapping[str, Tensor], number: int = number) -> None:
            tensors["x"].fill_(number)
            tensors["y"].fill_(number)

        found = store.fill(f"key {number}", layout, fill)
        if set(found) != set(layout) or not all(bool((tensor == number).all()) for tensor in found.values()):
            seen.put(("wrong", number))
        seen.put(("done", turn))


def test_processes_that_fill_evict_and_open_at_once_read_what_was_written(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    seen: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    processes = [context.Process(target=fill_and_read, args=(str(tmp_path), own, seen)) for own in range(3)]
    for process in processes:
        process.start()
    found = [seen.get(timeout=120) for _ in range(3 * 60)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [what for what, _ in found if what != "done"] == []
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 40_000


def test_what_is_being_filled_counts_and_is_never_evicted(tmp_path: Path) -> None:
    layout = {"x": ((1000,), torch.float32)}
    store = MappedStore(tmp_path, limit=9_000)
    with store.filling("first", layout) as first:
        MappedStore(tmp_path, limit=9_000).fill("second", layout, write)
        with store.filling("third", layout) as third:  # in place of the second
            assert first.folder is not None
            assert third.folder is not None
            assert len(folders(tmp_path)) == 2
            with pytest.raises(OSError, match="caches may take"):
                store.fill("fourth", layout, write)
            write(third.tensors())
        write(first.tensors())
    assert first.sealed["x"][1] == 1.5
    assert store.fill("first", layout, lambda tensors: pytest.fail("computed twice"))["x"][1] == 1.5


def test_who_finds_no_room_but_what_others_are_filling_waits_and_then_takes_the_place_of_one(tmp_path: Path) -> None:
    """As three processes do on three bases, under a limit of two: no disk is full."""
    layout, limit = {"x": ((1000,), torch.float32)}, 9_000
    beats: list[int] = []
    found: list[Mapping[str, Tensor]] = []

    def third() -> None:
        store = MappedStore(tmp_path, limit, alive=lambda: beats.append(1))
        found.append(store.fill("third", layout, write))

    waiting = threading.Thread(target=third)
    with MappedStore(tmp_path, limit).filling("first", layout):
        with MappedStore(tmp_path, limit).filling("second", layout) as second:
            waiting.start()
            while len(beats) < 3:
                assert waiting.is_alive()
                time.sleep(0.01)
            assert found == []
            write(second.tensors())
        waiting.join(60)
        assert found[0]["x"][999] == 999.5
        assert len(folders(tmp_path)) == 2  # in place of the second


def test_who_waits_for_another_to_fill_its_key_says_that_it_lives(tmp_path: Path) -> None:
    beats: list[int] = []
    store = MappedStore(tmp_path, alive=lambda: beats.append(1))
    waiting = threading.Thread(target=lambda: store.fill("key", LAYOUT, lambda tensors: pytest.fail("computed twice")))
    with MappedStore(tmp_path).filling("key", LAYOUT) as filling:
        waiting.start()
        while len(beats) < 3:
            assert waiting.is_alive()
            time.sleep(0.01)
        write(filling.tensors())
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_key_larger_than_the_limit_is_refused_and_nothing_else_goes_for_it(tmp_path: Path) -> None:
    store = MappedStore(tmp_path, limit=9_000)
    store.fill("small", {"x": ((1000,), torch.float32)}, write)
    with pytest.raises(OSError, match="caches may take 9,000 bytes here") as refused:
        store.fill("large", {"x": ((5000,), torch.float32)}, lambda tensors: pytest.fail("computed"))
    assert refused.value.errno == errno.ENOSPC
    store.fill("small", {"x": ((1000,), torch.float32)}, lambda tensors: pytest.fail("computed twice"))


# ---- disks


def full(*of: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", ["missing", "refusing"])
def test_room_is_taken_where_the_system_cannot_take_it_by_itself(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no posix_fallocate, and some file systems refuse it: zeros are written."""

    def refuse(*of: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(mapped, "PIECE", 1000)
    if kind == "missing":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    layout = {"x": ((3000,), torch.float32)}
    with MappedStore(tmp_path).filling("key", layout) as filling:
        assert filling.folder is not None
        file = (filling.folder / "x.npy").stat()
        assert file.st_blocks * 512 >= file.st_size
        write(filling.tensors())
    assert MappedStore(tmp_path).fill("key", layout, write)["x"][2999] == 2999.5


def test_a_disk_without_room_refuses_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        MappedStore(tmp_path).fill("key", LAYOUT, lambda tensors: pytest.fail("computed"))
    assert folders(tmp_path) == []


# ---- what caches are told by, and who fills them


@pytest.fixture(scope="module")
def base(odd: Suite) -> MergedBase:
    return merge(odd, "task_arithmetic", scaling=0.3)


def caches_of(base: MergedBase, plan: CachePlan, store: MappedStore) -> Caches:
    return Bench(base, "cpu", caches=store, plan=plan).caches


def other_pixel(suite: Suite, split: str) -> Suite:
    """The same suite, one value of the last image of the last task changed."""
    *first, last = suite.tasks
    pixels = last.splits[split].pixels.clone()
    pixels[-1, -1, -1, -1] ^= 1
    splits = {**last.splits, split: replace(last.splits[split], pixels=pixels)}
    return replace(suite, tasks=(*first, replace(last, splits=splits)))


WHOLE = CachePlan(storage="fp32", boundaries=(0,))
CHANGES = {
    "nothing": lambda base: (base, WHOLE),
    "the fingerprint of the base": lambda base: (replace(base, fingerprint="another"), WHOLE),
    "one pixel of the last image": lambda base: (replace(base, suite=other_pixel(base.suite, "adapt")), WHOLE),
    "a pixel of another split": lambda base: (replace(base, suite=other_pixel(base.suite, "test")), WHOLE),
    "the storage": lambda base: (base, replace(WHOLE, storage="bf16")),
    "the boundaries": lambda base: (base, replace(WHOLE, boundaries=(0, 2))),
    "the images to adapt on": lambda base: (base, replace(WHOLE, adapt=16)),
}
SAME = {"nothing", "a pixel of another split"}


@pytest.mark.parametrize("change", CHANGES)
def test_caches_are_told_by_all_that_they_depend_on(base: MergedBase, tmp_path: Path, change: str) -> None:
    store = MappedStore(tmp_path)
    caches_of(base, WHOLE, store).split("adapt")
    caches_of(*CHANGES[change](base), store).split("adapt")
    assert len(folders(tmp_path)) == (1 if change in SAME else 2)


def test_caches_of_another_number_of_threads_are_others(base: MergedBase, tmp_path: Path) -> None:
    """Sums in another order have other last digits, and equal threads shall give equal bits."""
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        caches_of(base, WHOLE, MappedStore(tmp_path)).split("adapt")
    torch.set_num_threads(before)
    assert len(folders(tmp_path)) == 2


def filled(base: MergedBase, folder: Path) -> dict[str, Tensor]:
    found = caches_of(base, WHOLE, MappedStore(folder)).split("adapt")
    assert found is not None
    return dict(found.tensors)


def test_a_cache_filled_in_parts_by_others_is_the_one_that_is_filled_at_once(
    base: MergedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intervmerge.engines.caches.CHUNK", 32)
    holder, *others = (caches_of(base, WHOLE, MappedStore(tmp_path / "parts")) for _ in range(3))
    with holder.parts("adapt") as parts:
        assert len(parts) == 5  # of 144 images
        for part, other in zip(parts, itertools.cycle(others), strict=False):
            other.fill_part(pickle.loads(pickle.dumps(part)))
    once = filled(base, tmp_path / "once")
    for tensors in (filled(base, tmp_path / "parts"), dict(checked(others[0].split("adapt")).tensors)):
        assert tensors.keys() == once.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in once.items())
    (key,) = (tmp_path / "parts").glob("*/")
    assert not list(key.glob("*.done"))
    with holder.parts("adapt") as parts:
        assert parts == []


def checked(split: CachedSplit | None) -> CachedSplit:
    assert split is not None
    return split


def test_a_cache_of_which_a_part_is_missing_is_never_sealed(base: MergedBase, tmp_path: Path) -> None:
    caches = caches_of(base, WHOLE, MappedStore(tmp_path))
    with pytest.raises(DiskError, match=r"caches of adapt: got 1 of 1 parts not filled"), caches.parts("adapt"):
        pass
    assert folders(tmp_path) == []


def test_a_disk_too_small_for_the_images_of_test_costs_their_caches_and_no_more(
    base: MergedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process fills a split, or many do side by side."""
    caches = caches_of(base, WHOLE, MappedStore(tmp_path))
    for split in STREAMED:
        caches.split(split)
    whole = folders(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with caches.parts("test") as parts:
        assert parts == []
    assert caches.split("test") is None
    assert folders(tmp_path) == whole


def test_a_disk_too_small_for_what_trials_train_on_is_said(
    base: MergedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"), caches_of(base, WHOLE, MappedStore(tmp_path)).parts("adapt"):
        pass


def test_a_part_of_a_cache_that_was_given_up_is_refused(base: MergedBase, tmp_path: Path) -> None:
    caches = caches_of(base, WHOLE, MappedStore(tmp_path))
    with pytest.raises(RuntimeError, match="the holder fails"), caches.parts("adapt") as parts:
        raise RuntimeError("the holder fails")
    with pytest.raises((OSError, KeyError)):
        caches.fill_part(parts[0])
    assert folders(tmp_path) == []


# ---- places that cannot be written to


def test_a_folder_that_is_only_read_gives_what_it_holds(tmp_path: Path) -> None:
    MappedStore(tmp_path).fill("key", LAYOUT, write)
    tmp_path.chmod(0o555)
    try:
        found = MappedStore(tmp_path).fill("key", LAYOUT, lambda tensors: pytest.fail("computed twice"))
    finally:
        tmp_path.chmod(0o755)
    assert found.keys() == LAYOUT.keys()


@pytest.mark.parametrize("refusal", ["a file in the way", "a full disk"])
def test_a_trial_whose_caches_cannot_be_written_works_without_them_and_says_so(
    base: MergedBase, tmp_path: Path, refusal: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if refusal == "a file in the way":
        (tmp_path / "store").write_text("in the way")
    else:
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    config = TrialConfig(training=TrainingConfig(steps=2, batch=8))
    found = run_trial(config, Bench(base, Machine(device="cpu"), caches=MappedStore(tmp_path / "store")))
    expected = run_trial(config, Bench(base, Machine(device="cpu", cache_gib=0)))
    assert (found.engine, found.circumstances.storage) == ("exact", "none")
    assert found.rungs[-1].scores == expected.rungs[-1].scores
    assert "no caches: the exact engine computes every block at every step, as they could not be written" in caplog.text


def test_a_plan_that_was_given_is_not_changed_by_one_process_whose_disk_refuses(
    base: MergedBase, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("in the way")
    given = Bench(base, "cpu", caches=MappedStore(tmp_path / "store"), plan=WHOLE)
    with pytest.raises(OSError, match="store"):
        run_trial(TrialConfig(training=TrainingConfig(steps=2, batch=8)), given)


def test_what_a_far_store_keeps_is_not_computed_again_and_what_it_refuses_is_computed_once(tmp_path: Path) -> None:
    computed: list[str] = []

    def value() -> Tensor:
        computed.append("again")
        return torch.arange(3.0)

    far = MappedStore(tmp_path / "far")
    first, later = LayeredStore(InProcessStore(), far, "cpu"), LayeredStore(InProcessStore(), far, "cpu")
    assert torch.equal(first.get("key", value), later.get("key", value))
    assert len(computed) == 1
    LayeredStore(InProcessStore(), far, "another device").get("key", value)
    assert len(computed) == 2
    refusing = LayeredStore(InProcessStore(), MappedStore(tmp_path / "small", limit=1), "cpu")
    assert torch.equal(refusing.get("key", value), refusing.get("key", value))
    assert len(computed) == 3
