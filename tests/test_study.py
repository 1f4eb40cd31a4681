"""A study on disk: who writes to it, what it survives, what it refuses."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from intervmerge.bundle.exporting import export
from intervmerge.bundle.model import load_bundle
from intervmerge.cli.search import main as search
from intervmerge.engines.caches import CachePlan, plan_caches
from intervmerge.engines.storages import STORAGES
from intervmerge.errors import CheckpointError, ConfigError, InputError, SuiteError
from intervmerge.machine import GIB
from intervmerge.records.circumstances import ALL, NOTHING_KEPT, UNKNOWN, Circumstances
from intervmerge.records.record import Record, Rung, State
from intervmerge.records.repeats import Repeat
from intervmerge.records.scores import Score
from intervmerge.search.bases.known import known_base
from intervmerge.search.plan import Prepared, SearchPlan, named_base, prepare
from intervmerge.search.run import opened
from intervmerge.search.run import search as search_plan
from intervmerge.search.watch import Silence
from intervmerge.session.session import ray_session
from intervmerge.space.samplers import SAMPLERS
from intervmerge.space.search import KNOBS, SearchSettings
from intervmerge.space.space import InterventionSpace, TrainingSpace, read_space
from intervmerge.study.journal import SETTINGS, Journal, held
from intervmerge.study.journal_file import HELD, JournalFile, mend
from intervmerge.study.layout import JOURNAL, LOCK, repeat_folder, trial_folder
from intervmerge.study.sameness import check_circumstances, room_for
from intervmerge.study.study import load_study, settings_of, take_up
from intervmerge.study.upgrades import FORMAT
from intervmerge.suites.suite import Suite, load_suite
from intervmerge.trial.run import FILE
from intervmerge.views.tables import write_front

pytestmark = pytest.mark.filterwarnings("default")  # Optuna warns of its own affairs


def trial(state: str, *rungs: Rung) -> Record:
    return Record(0, state, 0, {"formula": "noreft"}, {"steps": 4}, 100, rungs=rungs)  # type: ignore[arg-type]


# ---- one writer

WRITER = """\
import sys
from pathlib import Path
from intervmerge.study.journal_file import HELD, JournalFile, mend

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
HELD.add(path.parent.resolve())
file = JournalFile(str(path))
for number in range(count):
    file.append_logs([{"writer": name, "number": number, "filler": "x" * (number % 97)}])
"""


def test_of_two_processes_that_append_to_a_journal_no_line_is_lost(tmp_path: Path) -> None:
    path, count = tmp_path / JOURNAL, 400
    path.touch()
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name, str(count)]) for name in ("a", "b")]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for name in ("a", "b"):
        assert [line["number"] for line in lines if line["writer"] == name] == list(range(count))


def test_nobody_writes_to_a_study_without_holding_its_folder(tmp_path: Path) -> None:
    sampler = SAMPLERS["random"](0)
    with pytest.raises(AssertionError, match="does not hold it"):
        Journal(tmp_path, sampler)
    with held(tmp_path):
        journal = Journal(tmp_path, sampler)
        journal.note("a", 1)
    with pytest.raises(AssertionError, match="does not hold its folder"):
        journal.note("b", 2)
    with pytest.raises(AssertionError, match="does not hold its folder"):
        Journal(tmp_path).note("b", 2)
    assert Journal(tmp_path).noted("b") is None
    assert not HELD & {tmp_path.resolve()}


def test_a_journal_never_has_a_number_that_json_has_not(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).touch()
    with held(tmp_path), pytest.raises(ValueError, match="not JSON compliant"):
        JournalFile(str(tmp_path / JOURNAL)).append_logs([{"figure": float("nan")}])
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_what_a_killed_search_was_writing_is_removed_by_the_next_one_that_holds_the_folder(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from intervmerge.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as fresh:\n"
        "    fresh.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    trial = trial_folder(tmp_path, 3)
    repeat = repeat_folder(tmp_path, 3, 1)
    repeat.mkdir(parents=True)
    for file in (tmp_path / "front.json", tmp_path / "notes", trial / FILE, repeat / FILE):
        assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == -signal.SIGKILL
    mine = [tmp_path / ".hidden", tmp_path / f".{'a' * 32}", trial / f"x.{'a' * 32}.safetensors", repeat / FILE]
    for file in mine:
        file.write_text("whole")
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert len(files) == 4 + len(mine)
    with held(tmp_path):
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*mine, tmp_path / LOCK}


# ---- what Optuna hears

FULL = Rung(4, 1.0, {"red": Score(5, 5, 9), "green": Score(7, 7, 9)})
EARLY = replace(FULL, steps=2)
HEARD: Mapping[str, tuple[Record, TrialState]] = {
    "complete": (trial("complete", EARLY, FULL), TrialState.COMPLETE),
    "partial": (trial("partial", EARLY, replace(FULL, stopped={"red": 2})), TrialState.PRUNED),
    "stopped": (trial("stopped", replace(EARLY, stopped={"red": 2, "green": 2})), TrialState.PRUNED),
    "failed": (trial("failed", EARLY), TrialState.FAIL),
    "over the budget": (trial("pruned"), TrialState.PRUNED),
    "repeat of a complete one": (trial("complete", EARLY, FULL).repeated(0), TrialState.COMPLETE),
    "repeat of a partial one": (
        trial("partial", EARLY, replace(FULL, stopped={"red": 2})).repeated(0), TrialState.PRUNED
    ),
    "repeat of a stopped one": (
        trial("stopped", replace(EARLY, stopped={"red": 2, "green": 2})).repeated(0), TrialState.PRUNED
    ),
    "repeat of one that runs": (trial("running", EARLY).repeated(0), TrialState.FAIL),
    "repeat of one that runs in some tasks": (
        trial("running", replace(EARLY, stopped={"red": 2})).repeated(0), TrialState.FAIL
    ),
    "repeat of one that has just begun": (trial("running").repeated(0), TrialState.FAIL),
    "repeat of one that failed": (trial("failed").repeated(0), TrialState.FAIL),
}  # fmt: skip
"""A trial as it ends, and what Optuna hears of it."""


@pytest.mark.parametrize("name", HEARD)
def test_optuna_hears_no_figure_that_is_not_final(name: str, tmp_path: Path) -> None:
    record, state = HEARD[name]
    with held(tmp_path):
        journal = Journal(tmp_path, SAMPLERS["random"](0))
        journal.tell(journal.study.ask(), record, "accuracy")
    told = Journal(tmp_path).study.trials[0]
    assert told.state == state
    assert told.values == ([pytest.approx((5 / 9 + 7 / 9) / 2), 2.0] if state == TrialState.COMPLETE else None)
    assert told.user_attrs["record"]["state"] == record.state  # the record says what it was


def test_a_repeat_of_a_trial_that_failed_on_its_way_is_told_as_nothing(tmp_path: Path) -> None:
    states = {record.state for record, _ in HEARD.values()}
    assert states == {*get_args(State)} - {"running"}  # every state in which a trial ends


# ---- what was computed otherwise

OURS = Circumstances(device="cpu", storage="fp32", adapt=ALL, torch="2.9.1", package="1")
OTHERWISE = {
    "device": (replace(OURS, device="cuda"), "device cpu, but the trials there had cuda", "--device cuda"),
    "storage": (replace(OURS, storage="bf16"), "storage fp32, but the trials there had bf16", "--cache-gib 0.0"),
    "no stream": (replace(OURS, storage=NOTHING_KEPT), "had no class stream", "--cache-gib 0, or"),
    "adapt": (
        replace(OURS, storage="bf16 tokens", adapt=64), "storage fp32, but the trials there had bf16 tokens", "--cache"
    ),
    "adapt alone": (replace(OURS, adapt=64), "adapt all images to adapt on, but the trials there had 64", "--cache"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
@pytest.mark.parametrize("repeated", [False, True])
def test_trials_whose_figures_differ_by_more_than_rounding_are_never_mixed(
    name: str, repeated: bool, odd: Suite
) -> None:
    theirs, got, allowed = OTHERWISE[name]
    known = trial("complete", EARLY, FULL)
    if repeated:
        known = replace(known, repeats=(Repeat(1, FULL.scores, FULL.scores, circumstances=theirs),))
    else:
        known = replace(known, circumstances=theirs)
    with pytest.raises(ConfigError, match=re.escape(got)) as refused:
        check_circumstances("--out x", [trial("complete", FULL), known], OURS, odd)
    assert allowed in refused.value.args[3]
    assert "another --out" in refused.value.args[3]


def test_what_differs_by_rounding_is_said_and_what_is_unknown_or_untrained_is_not(odd: Suite) -> None:
    old = trial("complete", FULL)
    never = replace(trial("pruned"), circumstances=replace(OURS, device="cuda"))
    assert check_circumstances("--out x", [old, never], OURS, odd) == []
    newer = replace(old, circumstances=replace(OURS, torch="2.9.2", package="2"))
    said = check_circumstances("--out x", [newer, replace(newer, circumstances=OURS)], OURS, odd)
    assert [re.findall(r"computed with (\S+) (\S+), now it is (\S+):", text) for text in said] == [
        [("package", "2", "1")], [("torch", "2.9.2", "2.9.1")]
    ]  # fmt: skip


@pytest.mark.parametrize("storage", [*STORAGES, None])
@pytest.mark.parametrize("adapt", [None, 64])
def test_what_a_refusal_allows_gives_what_the_trials_had(storage: str | None, adapt: int | None) -> None:
    if adapt is not None and storage != "bf16 tokens":
        return  # fewer images are the ladder's last step
    suite, theirs = load_suite("mini8"), CachePlan(storage=storage, adapt=adapt)
    plan = plan_caches(suite, int(float(room_for(theirs, suite)) * GIB))
    assert (plan.storage, plan.adapt) == (storage, adapt)


@pytest.mark.parametrize("kind", [Record, Repeat])
def test_a_record_without_circumstances_is_of_unknown_ones(kind: type[Record] | type[Repeat]) -> None:
    whole = trial("complete", FULL) if kind is Record else Repeat(1, FULL.scores, {})
    values = {name: value for name, value in whole.to_json().items() if name not in ("circumstances", "threads")}
    assert kind.from_json(values).circumstances == UNKNOWN


# ---- older versions

OLD = Path(__file__).parent / "fixtures" / "format_1"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "study", tmp_path / "study"))


def plan(out: Path, **more: Any) -> Prepared:
    return prepare(SearchPlan.of(space=OLD / "space.yaml", suite=OLD / "suite", out=out, **more))


def taken_up(out: Path, **more: Any) -> Journal:
    """The journal of a folder, taken up as a search does."""
    prepared = plan(out, **more)
    base, sampling = named_base(prepared), prepared.sampling
    assert base is not None
    values = settings_of(sampling, base, prepared.suite_path, "fair", "accuracy", sampling.cost_range()[1])
    with held(out):
        journal = Journal(out, SAMPLERS["random"](0))
        take_up(journal, values, out, base)
    return journal


def test_a_study_of_format_1_is_opened_with_all_that_it_held(old: Path) -> None:
    record = load_study(old).record
    assert [trial.state for trial in record.trials] == ["complete"] * 6
    assert [(trial.number, set(trial.test)) for trial in record.front] == [(1, {"red", "green"}), (4, {"red", "green"})]
    assert record.trials[1].test["red"].right == "fdff2e"
    assert [repeat.seed for repeat in record.trials[4].repeats] == [4]
    assert record.trials[4].repeats[0].test["green"].right == "f99e5d"
    assert {run.circumstances for trial in record.trials for run in trial.by_seed} == {UNKNOWN}
    assert record.gains
    assert (record.selection, record.final_seeds, record.looks) == ("shrunk", 1, 1)
    json.loads(json.dumps([trial.to_json() for trial in record.trials]))


def test_a_study_of_the_papers_protocol_with_two_figures_of_the_same_images_is_refused(old: Path) -> None:
    def note(protocol: str, right: int) -> None:
        with held(old):
            journal = Journal(old, SAMPLERS["random"](0))
            known = journal.noted("references/validation")
            task = next(iter(known["merged"]))
            changed = {**known["merged"], task: {**known["merged"][task], "correct": right}}
            journal.note("references/test", {**known, "merged": changed})
            journal.note(SETTINGS, {**journal.settings, "protocol": protocol})

    right = load_study(old).record.references["validation"]["merged"]["red"].correct
    note("fair", 0)
    load_study(old)
    note("paper", right - 1)  # of rounding
    load_study(old)
    note("paper", 0)
    for use in (load_study, taken_up):
        with pytest.raises(ConfigError, match=r"the same images.*searched anew"):
            use(old)


def test_a_study_whose_suite_has_moved_says_so_and_takes_where_it_is(old: Path, odd_folder: Path) -> None:
    with pytest.raises(SuiteError, match=r"/gone/suite.*--suite PATH"):
        load_study(old).base()
    base = load_study(old, suite=OLD / "suite").base()
    assert base.rule == "ties_sum"
    with pytest.raises(CheckpointError, match="the base must be the one that the study measured"):
        load_study(old, suite=odd_folder).base()
    with pytest.raises(SuiteError, match="nowhere"):
        load_study(old, suite=old / "nowhere").base()


def test_a_study_of_format_1_that_is_taken_up_is_of_this_format_and_keeps_its_identity(old: Path) -> None:
    before = load_study(old).settings
    after = taken_up(old).settings
    assert (before["format"], after["format"]) == (1, FORMAT)
    assert after["identity"] == before["identity"]
    assert after["base_fingerprint"] == load_study(old, suite=OLD / "suite").base().fingerprint
    assert Path(after["suite_path"]) == OLD / "suite"
    assert load_study(old).base().fingerprint == after["base_fingerprint"]  # and is found there from now on
    taken_up(old)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"base": {"rule": "ties_sum", "scaling": 0.4}}, "base .*0.4"), ({"search": {"seed": 4}}, "search"),
     ({"engine": "exact"}, "space")],
)  # fmt: skip
def test_a_study_of_format_1_is_no_other_study(more: dict[str, Any], message: str, old: Path) -> None:
    content = (old / JOURNAL).read_bytes()
    more = {**more.pop("search", {}), **more}
    with pytest.raises(ConfigError, match=f"{message}.*but the study there has"):
        taken_up(old, **more)
    assert (old / JOURNAL).read_bytes() == content


def test_a_study_of_a_newer_format_is_refused_and_left_as_it_is(old: Path) -> None:
    with held(old):
        journal = Journal(old)
        journal.note("settings", {**journal.settings, "format": FORMAT + 1})
    content = (old / JOURNAL).read_bytes()
    for use in (load_study, taken_up):
        with pytest.raises(ConfigError, match=f"a study of format {FORMAT + 1}"):
            use(old)
    assert (old / JOURNAL).read_bytes() == content


DEFAULTS = [
    *((("space", part), f.name) for part, kind in (("intervention", InterventionSpace), ("training", TrainingSpace))
      for f in fields(kind)),
    *((("search",), f.name) for f in fields(SearchSettings)),
    ((), "selection"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "name"), DEFAULTS, ids=lambda value: str(value))
def test_a_setting_that_was_added_since_at_its_default_leaves_a_study_what_it_was(
    place: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    given = ("formula", "rank", "blocks", "token", "steps", "batch", "learning_rate", "rungs", "trials", "sampler",
             "priors", "stopping", "final_seeds", "seed")  # fmt: skip
    if name in given:
        return  # the space says it
    journal = taken_up(out)
    with held(out):
        values = dict(journal.study.user_attrs["settings"])
        inner = values
        for key in place:
            inner[key] = dict(inner[key])
            inner = inner[key]
        del inner[name]
        journal.note("settings", values)
    assert name not in str(Journal(out).study.user_attrs["settings"].get("search" if place == ("search",) else "x", ""))
    taken_up(out)


def test_a_record_without_a_setting_that_was_added_since_has_its_default(old: Path) -> None:
    text = (old / JOURNAL).read_text(encoding="utf-8")
    (old / JOURNAL).write_text(
        text.replace(',"start":"identity"', "").replace(',"engine":"auto"', ""), encoding="utf-8"
    )
    for trial in load_study(old).record.trials:
        assert (trial.intervention["start"], trial.training["engine"]) == ("identity", "auto")


# ---- looks at test


def test_every_session_that_measures_on_test_is_a_look_however_much_it_measures(tmp_path: Path) -> None:
    for session in range(1, 4):
        with held(tmp_path):
            journal = Journal(tmp_path, SAMPLERS["random"](0))
            assert journal.looks == session - 1
            record = trial("complete", EARLY, FULL)
            asked = journal.study.ask()
            record = replace(record, number=asked.number)
            journal.tell(asked, record, "accuracy")
            assert journal.looks == session - 1
            for task in ("red", "green"):
                journal.keep_test(record.with_test({task: Score(1, 1, 9)}))
            journal.keep_repeat(record.number, Repeat(1, FULL.scores, FULL.scores))
            assert journal.looks == Journal(tmp_path).looks == session


@pytest.mark.parametrize(("looks", "words"), [(0, ""), (1, ", test was looked at once"), (3, "looked at 3 times")])
def test_the_caption_and_the_front_say_how_often_test_was_looked_at(
    looks: int, words: str, old: Path, tmp_path: Path
) -> None:
    record = replace(load_study(old).record, looks=looks)
    assert words in record.caption
    assert ("looked at" in record.caption) == (looks > 0)
    write_front(record, tmp_path / "front.json")
    assert json.loads((tmp_path / "front.json").read_text())["looks_at_test"] == looks


# ---- what something else has touched


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def spoiled(content: bytes, chance: random.Random) -> bytes:
    place, count = chance.randrange(len(content)), chance.choice([1, 3, 40])
    return content[:place] + chance.randbytes(count) + content[place + count :]


def without_a_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def with_a_line_twice(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines, chance.choice(lines)])


def with_another_value(content: bytes, chance: random.Random) -> bytes:
    """JSON as before, in which something is not what it was."""
    lines = content.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    values = json.loads(lines[place])
    inside = [values]
    for value in inside:
        inside.extend(v for v in (value.values() if isinstance(value, dict) else value) if isinstance(v, dict | list))
    inside = [value for value in inside if value]
    target = chance.choice(inside)
    key = chance.choice(list(target)) if isinstance(target, dict) else chance.randrange(len(target))
    if isinstance(target, dict) and chance.random() < 0.3:
        del target[key]
    else:
        target[key] = chance.choice([None, -1, 10**30, 0.5, "", "x", [], {}, [1], {"a": 1}, True])
    lines[place] = json.dumps(values).encode() + b"\n"
    return b"".join(lines)


def nothing(content: bytes, chance: random.Random) -> bytes:
    return chance.choice([b"", b"\n", b"{}\n", b"[]\n", b"null\n", b"\x00" * 64, b"\xff\xfe{", b"garbage\n" * 3])


@settings(max_examples=48, deadline=None)
@given(
    damage=st.sampled_from([cut, spoiled, without_a_line, with_a_line_twice, with_another_value, nothing]),
    seed=st.integers(0, 10**6),
)
def test_a_journal_that_something_else_has_touched_is_opened_or_refused_in_words(
    damage: Callable[[bytes, random.Random], bytes], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("touched")
    content = damage((OLD / "study" / JOURNAL).read_bytes(), random.Random(seed))
    (out / JOURNAL).write_bytes(content)
    for use in (read, taken_up):
        with suppress(InputError):  # nothing else, and nothing that a user would not understand
            use(out)


def read(out: Path) -> None:
    record = load_study(out).record
    assert json.dumps([trial.to_json() for trial in record.trials])
    for trial in record.front:
        assert record.words(trial)
    assert record.caption
    assert record.untested is not None


def test_the_study_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    optuna.create_study(storage=storage, study_name="mine").ask()
    content = (tmp_path / JOURNAL).read_bytes()
    for use in (load_study, taken_up):
        with pytest.raises(ConfigError, match="a study of Optuna named 'mine'"):
            use(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_trials_of_which_nothing_says_what_they_are_are_no_study(tmp_path: Path) -> None:
    with held(tmp_path):
        Journal(tmp_path, SAMPLERS["random"](0)).study.ask()
    with pytest.raises(ConfigError, match="nothing says what they are"):
        taken_up(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", None])
def test_an_empty_journal_is_a_new_study_also_where_the_base_is_to_be_chosen(
    content: bytes | None, tmp_path: Path
) -> None:
    prepared = plan(tmp_path, base="auto")
    if content is not None:
        (tmp_path / JOURNAL).write_bytes(content)
    with held(tmp_path):
        assert known_base(prepared, Journal(tmp_path, SAMPLERS["random"](0))) is None
    taken_up(tmp_path)


@pytest.mark.parametrize("name", ["trials", JOURNAL])
def test_a_study_whose_files_and_folders_are_swapped_is_refused_before_anything_is_trained(
    name: str, tmp_path: Path
) -> None:
    if name == "trials":
        (tmp_path / JOURNAL).touch()
        (tmp_path / "trials").touch()
    else:
        (tmp_path / JOURNAL).mkdir()
    with pytest.raises(ConfigError, match="--out"):
        plan(tmp_path)


def test_only_an_unfinished_last_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    whole = (OLD / "study" / JOURNAL).read_bytes()
    for tail, left in ((b'{"op_co', b""), (b"\x00\x00", b""), (b"garbage\nmore\n", b"garbage\n"), (b"", b"")):
        path.write_bytes(whole + tail)
        mend(path)
        assert path.read_bytes() == whole + left


# ---- values out of a library's range


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("seed", value) for value in (-1, 2**32, 99_999_999_999, 2**63 - 1)),
        *(("trials", value) for value in (0, -3, 10**7, 10**30)),
        *(("patience", value) for value in (0, 10**7)),
        *(("final_seeds", value) for value in (-1, 10**9)),
        *(("max_extra_params", value) for value in (0, 10**17)),
        *(("hung_after", value) for value in (0.0, -1.0, float("inf"), float("nan"), 1e300)),
        *(("time_budget", value) for value in (0.0, -1.0, float("inf"), float("nan"), 1e300)),
        *(("workers", value) for value in (0, -1, 10**9)),
        ("priors", "all"),
    ],
)
def test_a_value_that_a_library_could_not_take_is_refused_at_once(setting: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--{setting.replace('_', '-')}: got"):
        plan(tmp_path / "study", **{setting: value})
    if setting in KNOBS:
        space = tmp_path / "s.yaml"
        space.write_text(f"search: {{{setting}: {yaml.safe_dump(value).split(chr(10))[0]}}}", encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"s\.yaml.*search\.{setting}"):
            read_space(space)


def test_the_last_seed_has_room_for_the_further_ones(tmp_path: Path) -> None:
    assert plan(tmp_path, seed=2**32 - 3, final_seeds=2).sampling.space.search.seed == 2**32 - 3
    with pytest.raises(ConfigError, match=r"--seed: got .* further"):
        plan(tmp_path, seed=2**32 - 2, final_seeds=2)


def test_a_resumed_search_of_the_last_seed_still_draws(tmp_path: Path) -> None:
    with held(tmp_path):
        first = Journal(tmp_path, SAMPLERS["random"](0))
        first.study.ask()
        second = opened(plan(tmp_path, seed=2**32 - 1, final_seeds=0, sampler="tpe"))
        assert second.study.ask().suggest_int("x", 0, 9) in range(10)


def test_a_space_without_a_base_is_refused(tmp_path: Path) -> None:
    space = tmp_path / "s.yaml"
    space.write_text("base: []", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"s\.yaml, line 1, base: got \[\]"):
        read_space(space)


def test_a_batch_larger_than_what_memory_left_to_adapt_on_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    suite = load_suite("mini8")
    room = float(room_for(CachePlan(storage="bf16 tokens", adapt=64), suite))
    space = tmp_path / "s.yaml"
    space.write_text("training: {batch: 65}", encoding="utf-8")
    of = {"space": space, "suite": "mini8", "out": tmp_path / "study"}
    with pytest.raises(ConfigError, match=r"training\.batch: got 65"):
        prepare(SearchPlan.of(**of, cache_gib=room))
    assert prepare(SearchPlan.of(**of)).caches is not None


# ---- one place of the knobs


def test_a_plan_takes_every_knob_of_a_search_and_repeats_none() -> None:
    assert not {f.name for f in fields(SearchPlan)} & set(KNOBS)
    found = SearchPlan.of(space="x", trials=3, stopping="task", workers=2, seed=None)
    assert (found.search, found.workers) == ({"trials": 3, "stopping": "task"}, 2)
    with pytest.raises(ConfigError, match=r"trails: got no setting.*trials \(did you mean it\?\)"):
        SearchPlan.of(space="x", trails=3)


# ---- whole searches on what an older version left


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One session of Ray for all searches of this process."""
    with ray_session(None, 2):
        yield


def command(space: str, out: Path, *more: str) -> list[str]:
    given = ["--space", str(OLD / space), "--suite", str(OLD / "suite"), "--out", str(out), "--workers", "2"]
    return [*given, *more]


@pytest.mark.slow
def test_a_study_of_format_1_is_extended_looked_at_again_and_exported(
    ray_here: None, old: Path, tmp_path: Path
) -> None:
    before = load_study(old).record
    assert search(command("space.yaml", old, "--trials", "16")) == 0
    study = load_study(old)
    after = study.record
    assert len(after.ended) == 16
    assert [trial.rungs for trial in after.trials[:6]] == [trial.rungs for trial in before.trials]
    assert [trial.test for trial in after.trials[:6] if trial.number in (1, 4)] == [
        trial.test for trial in before.trials if trial.number in (1, 4)
    ]
    assert {trial.circumstances.storage for trial in after.ended[6:]} == {"fp32"}
    again = any(trial.test for trial in after.trials[6:])  # a front that gains nothing needs no further look
    assert (after.looks, after.untested, study.settings["format"]) == (1 + again, {}, FORMAT)
    assert load_bundle(export(study, path=tmp_path / "model", trial=4).path).classes
    with pytest.raises(ConfigError, match="storage no class stream, but the trials there had fp32"):
        search_plan(plan(old, trials=9, cache_gib=0), Silence())


@pytest.mark.slow
def test_a_half_study_of_format_1_goes_on_after_its_last_rung(ray_here: None, tmp_path: Path) -> None:
    out = Path(shutil.copytree(OLD / "half", tmp_path / "half"))
    (first,) = load_study(out).record.trials
    assert first.state == "running"
    assert search(command("half.yaml", out)) == 0
    record = load_study(out).record
    assert record.trials[0].state == "complete"
    kept, taken = first.rungs[0], record.trials[0].rungs[0]  # not trained again: it has the seconds of then
    assert (taken.steps, taken.seconds) == (kept.steps, kept.seconds)
    assert {task: score.correct for task, score in taken.scores.items()} == {
        task: score.correct for task, score in kept.scores.items()
    }
    assert len(record.ended) == 2
