"""Merged bases: what is equal has one fingerprint, and what differs in anything that decides a figure has another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from odd_suite import save
from safetensors.torch import load_file

from intervmerge.bases.merged import former_fingerprint, merge
from intervmerge.settings import read_yaml
from intervmerge.suites.checkpoints import fingerprint_of
from intervmerge.suites.suite import Suite, load_suite, write_yaml

FORMAT_1 = Path(__file__).parent / "fixtures" / "format_1"


def replace_weights(folder: Path) -> None:
    """One weight file rewritten under its old hash."""
    path = folder / "weights/red.safetensors"
    save(path, {name: -2 * tensor for name, tensor in load_file(path).items()})


def identities(suite: Suite) -> dict[str, str]:
    """Everything by which what is computed for the task `red` is kept."""
    return {
        "suite": suite.fingerprint,
        "base": merge(suite, "task_arithmetic", scaling=0.3).fingerprint,
        "teacher": suite.teacher("red"),
    }


def test_two_weights_under_one_written_hash_have_two_identities(odd: Suite, broken_folder: Path) -> None:
    replace_weights(broken_folder)
    before, after = identities(odd), identities(load_suite(broken_folder))
    assert not before.items() & after.items()


def test_a_changed_weight_file_leaves_the_other_teachers_what_they_were(odd: Suite, broken_folder: Path) -> None:
    replace_weights(broken_folder)
    assert load_suite(broken_folder).teacher("green") == odd.teacher("green")


def test_equal_weights_of_two_recipes_are_one_base(odd: Suite) -> None:
    """All entries kept and the whole sum taken, one task: three ways to the fine-tuned model."""
    suite = odd.only(["red"])
    found = [merge(suite, "task_arithmetic", scaling=1.0), merge(suite, "weight_average")]
    assert found[0].fingerprint == found[1].fingerprint
    assert former_fingerprint(suite, found[0].rule, found[0].settings) != former_fingerprint(suite, found[1].rule, {})


def renamed(folder: Path) -> None:
    values = read_yaml(folder / "suite.yaml")
    values["tasks"][0]["name"] = "crimson"
    write_yaml(folder / "suite.yaml", values)


def other_head(folder: Path) -> None:
    path = folder / "heads/red.safetensors"
    save(path, {name: tensor.flip(0) for name, tensor in load_file(path).items()})


def other_normalization(folder: Path) -> None:
    values = read_yaml(folder / "suite.yaml")
    values["normalization"]["mean"][0] = 0.45
    write_yaml(folder / "suite.yaml", values)


@pytest.mark.parametrize("change", [renamed, other_head, other_normalization])
def test_equal_weights_on_another_suite_are_another_base(
    odd: Suite, broken_folder: Path, change: Callable[[Path], None]
) -> None:
    """A task's name seeds what it draws; heads and pixels decide what is right."""
    change(broken_folder)
    base, other = merge(odd), merge(load_suite(broken_folder))
    assert all(torch.equal(base.state[layer], other.state[layer]) for layer in base.state)
    assert base.fingerprint != other.fingerprint


def test_a_base_has_one_fingerprint_on_any_number_of_threads(odd: Suite) -> None:
    def found() -> list[str]:
        return [merge(odd, rule).fingerprint for rule in ("task_arithmetic", "ties_sum", "ties_mean", "dare_ties_sum")]

    threads = torch.get_num_threads()
    both = found()
    try:
        torch.set_num_threads(1)
        alone = found()
    finally:
        torch.set_num_threads(threads)
    assert both == alone


@pytest.mark.parametrize("change", [lambda s: {**s, "proj": s["proj"].clone().index_fill_(0, torch.tensor([0]), 9.0)},
                                    lambda s: {("projection" if n == "proj" else n): t for n, t in s.items()},
                                    lambda s: {**s, "proj": s["proj"].T.contiguous()},
                                    lambda s: {**s, "proj": s["proj"].view(torch.int32)}],
                         ids=["a value", "a name", "a shape", "a type"])  # fmt: skip
def test_a_states_fingerprint_tells(odd: Suite, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = dict(merge(odd).state)
    assert fingerprint_of(change(dict(state))) != fingerprint_of(state)  # type: ignore[arg-type]
    assert fingerprint_of(dict(reversed(state.items()))) == fingerprint_of(state)


def test_what_format_1_wrote_is_found_again() -> None:
    suite = load_suite(FORMAT_1 / "suite")
    made = json.loads((FORMAT_1 / "bundle/bundle.json").read_text())["provenance"]
    assert suite.fingerprint == made["suite_fingerprint"]
    settings = {"density": 0.2, "scaling": 0.3}
    assert former_fingerprint(suite, "ties_sum", settings) == made["base_fingerprint"]


def test_the_images_of_a_split_are_told_by_every_pixel(odd: Suite) -> None:
    split = odd.tasks[0].splits["adapt"]
    pixels = split.pixels.clone()
    pixels[-1, -1, -1, -1] += 1
    assert type(split)(pixels, None).fingerprint != split.fingerprint
    assert type(split)(split.pixels.clone(), torch.zeros(len(split))).fingerprint == split.fingerprint
