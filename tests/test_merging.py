"""Laws of merging: closed forms, two routes that agree, invariants."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.merging import (
    RULES,
    State,
    TaskVector,
    analogy,
    combine,
    merge_states,
    resolve_settings,
    task_vector,
)
from intervmerge.merging.entries import kernel, magnitudes
from intervmerge.merging.entries.kernel import ByEntry
from intervmerge.merging.entries.magnitudes import trim_threshold
from intervmerge.merging.entries.sparsifiers import trim

SHAPES: dict[str, tuple[int, ...]] = {"class_embedding": (7,), "conv1.weight": (4, 3, 2, 2), "proj": (5, 11)}
TASKS = ["street", "digits", "cars", "textures"]


def random_state(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


def flat(state: State) -> Tensor:
    return torch.cat([layer.flatten() for layer in state.values()])


def assert_same(left: State, right: State, atol: float = 1e-6) -> None:
    assert list(left) == list(right)
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=atol, rtol=1e-5)


@pytest.fixture
def pretrained() -> dict[str, Tensor]:
    return random_state(0)


@pytest.fixture
def vectors() -> dict[str, State]:
    return {task: random_state(seed, 0.1) for seed, task in enumerate(TASKS, start=1)}


@pytest.fixture
def whole_numbers() -> dict[str, State]:
    """Task vectors full of ties, zeros and exact cancellations."""
    generator = torch.Generator().manual_seed(5)
    return {
        task: {name: torch.randint(-3, 4, shape, generator=generator).float() for name, shape in SHAPES.items()}
        for task in TASKS
    }


# ---- task vectors


def test_a_task_vector_applied_to_its_pretrained_state_gives_the_finetuned_state(pretrained: State) -> None:
    finetuned = random_state(9)
    assert_same(task_vector(pretrained, finetuned).apply(pretrained), finetuned)


def test_a_negated_task_vector_undoes_its_application(pretrained: State) -> None:
    vector = task_vector(pretrained, random_state(9))
    assert_same((-vector).apply(vector.apply(pretrained)), pretrained)


def test_task_vectors_form_a_vector_space(vectors: dict[str, State]) -> None:
    a, b = (TaskVector(vectors[task]) for task in TASKS[:2])
    assert_same(2 * a - b * 0.5, {name: 2 * a[name] - 0.5 * b[name] for name in SHAPES})
    assert_same(a + b - a, b)
    assert (a - a).norm() == 0


def test_norm_is_that_of_the_flat_vector(vectors: dict[str, State]) -> None:
    vector = TaskVector(vectors["cars"])
    assert vector.norm() == pytest.approx(flat(vector).norm().item(), rel=1e-6)
    assert (-3 * vector).norm() == pytest.approx(3 * vector.norm(), rel=1e-6)


def test_an_analogy_of_exact_parallelograms_closes(vectors: dict[str, State]) -> None:
    a, c, shift = (TaskVector(vectors[task]) for task in TASKS[:3])
    assert_same(analogy(a, a + shift, c), c + shift)


def test_a_task_vector_is_computed_in_fp32_whatever_is_stored(pretrained: State) -> None:
    halves = {name: layer.half() for name, layer in pretrained.items()}
    assert all(layer.dtype == torch.float32 for layer in task_vector(halves, pretrained).values())


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_layer_in_chunks_has_the_bits_of_the_whole(size: int) -> None:
    """A threshold found in chunks of one size is compared with chunks of another."""
    large = {seed: {"a": torch.randn(999, generator=torch.Generator().manual_seed(seed))} for seed in range(3)}
    vector = 0.37 * (TaskVector(large[0]) - 0.11 * TaskVector(large[1])) + TaskVector(large[2], weights=(1.3,))
    assert torch.equal(torch.cat(list(vector.chunks("a", size))), vector["a"])
    assert torch.equal(
        TaskVector(large[0], large[1], weights=(0.7, 0.3))["a"], 0.7 * large[0]["a"] + 0.3 * large[1]["a"]
    )


@pytest.mark.parametrize("rule", ["task_arithmetic", "ties_mean"])
def test_checking_and_merging_read_a_layer_of_a_lazy_state_few_times(
    pretrained: State, vectors: dict[str, State], rule: str
) -> None:
    """Every reading may be one of a file."""

    class Counting(Mapping[str, Tensor]):
        def __init__(self, state: State) -> None:
            self.state, self.readings = state, 0

        def __getitem__(self, layer: str) -> Tensor:
            self.readings += 1
            return self.state[layer]

        def __iter__(self) -> Iterator[str]:
            return iter(self.state)

        def __len__(self) -> int:
            return len(self.state)

    counted = {task: Counting(vector) for task, vector in vectors.items()}
    base = Counting(pretrained)
    merge_states(base, counted, rule)
    passes = 1 + (4 if rule == "ties_mean" else 1)  # shapes; two histograms, votes; the merge
    assert {state.readings for state in counted.values()} == {passes * len(SHAPES)}
    assert base.readings == 3 * len(SHAPES)  # shapes; whether it is sound; the sum


def test_states_of_other_layers_are_refused_with_all_faults_sorted(pretrained: dict[str, Tensor]) -> None:
    other = {
        "zeta": torch.ones(1),
        "alpha": torch.ones(1),
        "proj": torch.ones(2),
        "conv1.weight": torch.ones(4, 3, 2, 2),
    }
    with pytest.raises(
        CheckpointError, match=r"missing class_embedding; unexpected alpha, zeta; mismatched proj \[2\]"
    ):
        task_vector(pretrained, other)
    with pytest.raises(CheckpointError, match="not floating proj"):
        TaskVector({"proj": torch.ones(2, dtype=torch.int64)})


# ---- combine


def test_the_gradient_of_a_coefficient_is_the_product_of_gradient_and_task_vector(
    pretrained: State, vectors: dict[str, State]
) -> None:
    wanted = random_state(20)
    coefficients = torch.full((len(TASKS), len(SHAPES)), 0.3, requires_grad=True)
    merged = combine(pretrained, vectors, coefficients)
    torch.stack([(merged[name] * wanted[name]).sum() for name in SHAPES]).sum().backward()  # type: ignore[no-untyped-call]
    products = torch.stack(
        [torch.stack([(wanted[name] * vector[name]).sum() for name in SHAPES]) for vector in vectors.values()]
    )
    torch.testing.assert_close(coefficients.grad, products)


@pytest.mark.parametrize("shape", [(), (4,), (4, 3)])
def test_constant_coefficients_of_every_shape_are_task_arithmetic(
    pretrained: State, vectors: dict[str, State], shape: tuple[int, ...]
) -> None:
    coefficients = torch.full(shape, 0.4, requires_grad=True)
    merged = combine(pretrained, vectors, coefficients)
    assert_same(
        {name: layer.detach() for name, layer in merged.items()},
        merge_states(pretrained, vectors, "task_arithmetic", scaling=coefficients.tolist()),
    )
    assert merged["proj"].requires_grad
    merged["proj"].sum().backward()  # type: ignore[no-untyped-call]
    assert coefficients.grad is not None
    assert coefficients.grad.shape == coefficients.shape


def test_coefficients_of_another_shape_are_refused(pretrained: State, vectors: dict[str, State]) -> None:
    with pytest.raises(ConfigError, match="a list of 4"):
        combine(pretrained, vectors, torch.ones(3))
    with pytest.raises(ConfigError, match=r"task_arithmetic\.scaling.*a list of 4"):
        merge_states(pretrained, vectors, "task_arithmetic", scaling=[0.1, 0.2])


# ---- the streamed threshold


def lists_of_numbers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(4001, generator=generator)
    return {
        "normal": normal,
        "bf16": normal.bfloat16(),
        "fp16": normal.half(),
        "near ties": 1 + torch.randn(999, generator=generator) * 1e-7,
        "equal": torch.full((50,), -0.25),
        "zeros": torch.zeros(20),
        "mostly zeros": normal * (normal > 1.5),
        "denormal": normal[:500] * 1e-42,
        "huge and tiny": normal[:600] * torch.logspace(-44, 37, 600),
        "one": torch.tensor([-2.5]),
        "two bins": torch.tensor([1.0, -1.0, 2.0, 2.0, 0.0]),
    }


@pytest.mark.parametrize("density", [1e-9, 0.001, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("case", lists_of_numbers())
def test_the_streamed_threshold_is_the_kth_largest_of_the_flat_vector(
    case: str, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(magnitudes, "CHUNK_ELEMENTS", 64)
    numbers = lists_of_numbers()[case]
    third = len(numbers) // 3
    vector = {"a": numbers[:third], "b": numbers[third:]}
    kept = max(1, int(density * len(numbers)))
    expected = numbers.float().abs().sort(descending=True).values[kept - 1]
    assert torch.equal(trim_threshold(vector, density), expected)


# ---- rules


def written_out(pretrained: State, vectors: dict[str, State], mean: bool, scaling: float, density: float) -> Tensor:
    """TIES on flat vectors, as the paper tells it."""
    stack = torch.stack([flat(vector) for vector in vectors.values()])
    kept = max(1, int(density * stack.shape[1]))
    thresholds = stack.abs().topk(kept, dim=1).values[:, -1:]
    stack = torch.where(stack.abs() >= thresholds, stack, 0)
    signs = stack.sum(0).sign()
    signs = torch.where(signs == 0, signs.sum().sign(), signs)
    stack = torch.where(stack.sign() == signs, stack, 0)
    merged = stack.sum(0) / ((stack != 0).sum(0).clamp(min=1) if mean else 1)
    return flat(pretrained) + scaling * merged


@pytest.mark.parametrize("chunk", [1, 16, 10_000])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("rule", ["ties_mean", "ties_sum"])
@pytest.mark.parametrize("kind", ["vectors", "whole_numbers"])
def test_ties_in_chunks_is_ties_written_out(
    pretrained: State,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    rule: str,
    density: float,
    chunk: int,
) -> None:
    monkeypatch.setattr(kernel, "STACK_ELEMENTS", chunk)
    tasks = request.getfixturevalue(kind)
    merged = merge_states(pretrained, tasks, rule, density=density, scaling=0.7)
    expected = written_out(pretrained, tasks, rule == "ties_mean", 0.7, density)
    torch.testing.assert_close(flat(merged), expected)


def test_where_tasks_cancel_the_majority_sign_decides(pretrained: State) -> None:
    zeros = {"a": torch.zeros(4)}
    vectors = {"x": {"a": torch.tensor([1.0, 2.0, 3.0, 0.0])}, "y": {"a": torch.tensor([-1.0, 2.0, 3.0, 0.0])}}
    merged = merge_states(zeros, vectors, "ties_sum", density=1.0, scaling=1.0)
    torch.testing.assert_close(merged["a"], torch.tensor([1.0, 4.0, 6.0, 0.0]))


def test_disjoint_sum_is_disjoint_mean_times_survivors() -> None:
    zeros = {"a": torch.zeros(3)}
    vectors = {f"t{i}": {"a": torch.tensor([1.0, -2.0, float(i)])} for i in range(-1, 3)}
    total = merge_states(zeros, vectors, "ties_sum", density=1.0, scaling=1.0)["a"]
    mean = merge_states(zeros, vectors, "ties_mean", density=1.0, scaling=1.0)["a"]
    torch.testing.assert_close(total, mean * torch.tensor([4.0, 4.0, 2.0]))


def test_in_ties_a_coefficient_of_one_task_changes_no_other_tasks_entries() -> None:
    """λ comes after election: a task that wins the election wins it with λ = 0 too."""
    vectors = {"x": {"a": torch.tensor([5.0])}, "y": {"a": torch.tensor([-1.0])}}
    merged = merge_states({"a": torch.zeros(1)}, vectors, "ties_sum", density=1.0, scaling=[0.0, 1.0])
    assert merged["a"].item() == 0


def test_weight_average_is_task_arithmetic_with_one_over_the_tasks(
    pretrained: State, vectors: dict[str, State]
) -> None:
    average = merge_states(pretrained, vectors, "weight_average")
    finetuned = [TaskVector(vector).apply(pretrained) for vector in vectors.values()]
    assert_same(average, {name: sum(s[name] for s in finetuned) / 4 for name in SHAPES})  # type: ignore[misc]
    assert_same(average, merge_states(pretrained, vectors, "task_arithmetic", scaling=1 / 4))


@pytest.mark.parametrize(
    "rule", [name for name, row in RULES.items() if "scaling" in row.defaults and isinstance(row.kernel, ByEntry)]
)
def test_coefficients_constant_over_tasks_or_layers_are_one_coefficient(
    pretrained: State, vectors: dict[str, State], rule: str
) -> None:
    once = merge_states(pretrained, vectors, rule, scaling=0.6)
    assert_same(once, merge_states(pretrained, vectors, rule, scaling=[0.6] * 4))
    assert_same(once, merge_states(pretrained, vectors, rule, scaling=[[0.6] * 3] * 4))


@pytest.mark.parametrize("rule", RULES)
def test_merging_returns_a_new_fp32_state_and_modifies_nothing(
    pretrained: State, vectors: dict[str, State], rule: str
) -> None:
    before = [flat(state).clone() for state in (pretrained, *vectors.values())]
    merged = merge_states(pretrained, vectors, rule)
    for name, layer in merged.items():
        assert layer.dtype == torch.float32
        assert layer.shape == SHAPES[name]
        layer.zero_()
    after = [flat(state) for state in (pretrained, *vectors.values())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_memory_mapped_states_merge_as_states_in_memory(
    pretrained: dict[str, Tensor], vectors: dict[str, dict[str, Tensor]], rule: str, tmp_path: Path
) -> None:
    stored: dict[str, State] = {}
    for task, vector in vectors.items():
        save_file({name: layer.bfloat16() for name, layer in vector.items()}, tmp_path / task)
        stored[task] = load_file(tmp_path / task)
    read = {task: {name: vector[name].float() for name in SHAPES} for task, vector in stored.items()}
    assert_same(merge_states(pretrained, stored, rule), merge_states(pretrained, read, rule), atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_lazy_task_vectors_merge_as_stored_ones(pretrained: State, vectors: dict[str, State], rule: str) -> None:
    lazy = {task: TaskVector(vector) * 0.5 for task, vector in vectors.items()}
    stored = {task: dict(vector) for task, vector in lazy.items()}
    assert_same(merge_states(pretrained, lazy, rule), merge_states(pretrained, stored, rule), atol=0)


def test_dare_that_drops_nothing_is_task_arithmetic(pretrained: State, vectors: dict[str, State]) -> None:
    dare = merge_states(pretrained, vectors, "dare_task_arithmetic", drop=0.0, scaling=0.3)
    assert_same(dare, merge_states(pretrained, vectors, "task_arithmetic", scaling=0.3))


def test_dare_ties_that_drops_nothing_is_ties_that_trims_nothing(pretrained: State, vectors: dict[str, State]) -> None:
    dare = merge_states(pretrained, vectors, "dare_ties_mean", drop=0.0)
    assert_same(dare, merge_states(pretrained, vectors, "ties_mean", density=1.0))


@pytest.mark.parametrize("drop", [0.2, 0.5, 0.9])
def test_dare_drops_its_share_and_keeps_the_mean(drop: float) -> None:
    entries = 200_000
    ones = {"x": {"a": torch.ones(entries)}}
    merged = merge_states({"a": torch.zeros(entries)}, ones, "dare_task_arithmetic", drop=drop, scaling=1.0)["a"]
    deviation = (drop / (1 - drop) / entries) ** 0.5
    assert merged.mean().item() == pytest.approx(1, abs=5 * deviation)
    torch.testing.assert_close(merged.unique(), torch.tensor([0, 1 / (1 - drop)]))


def test_the_dare_mask_of_a_task_depends_on_seed_task_and_layer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = {"a": torch.zeros(500), "b": torch.zeros(500)}
    ones = {"a": torch.ones(500), "b": torch.ones(500)}

    def mask(task: str, seed: int = 0, **others: State) -> dict[str, Tensor]:
        vectors: dict[str, State] = {**others, task: ones}
        scaling = [0.0] * len(others) + [1.0]
        return merge_states(zeros, vectors, "dare_task_arithmetic", scaling=scaling, seed=seed)

    alone = mask("cars")
    assert_same(alone, mask("cars", digits=ones, street=ones), atol=0)
    monkeypatch.setattr(kernel, "STACK_ELEMENTS", 7)
    assert_same(alone, mask("cars"), atol=0)
    assert not torch.equal(alone["a"], alone["b"])
    assert not torch.equal(alone["a"], mask("digits")["a"])
    assert not torch.equal(alone["a"], mask("cars", seed=1)["a"])


def test_a_new_rule_is_a_new_row_and_nothing_else(pretrained: State, vectors: dict[str, State]) -> None:
    trimmed = ByEntry(trim, reduce="mean")
    row = replace(RULES["ties_mean"], name="trimmed_average", kernel=trimmed, defaults={"density": 1.0})
    assert_same(merge_states(pretrained, vectors, row), merge_states(pretrained, vectors, "weight_average"))
    with pytest.raises(TypeError, match="does not support item assignment"):
        RULES["trimmed_average"] = row  # type: ignore[index]


# ---- settings and refusals


@pytest.mark.parametrize("rule", RULES)
def test_resolved_settings_are_complete_plain_and_their_own_fixed_point(rule: str) -> None:
    resolved = resolve_settings(rule, {})
    assert resolved == dict(RULES[rule].defaults)
    assert resolve_settings(rule, resolved) == resolved
    assert json.loads(json.dumps(resolved)) == resolved


def test_coefficients_are_resolved_to_tuples() -> None:
    assert resolve_settings("task_arithmetic", {"scaling": torch.tensor([0.5, 1])}) == {"scaling": (0.5, 1.0)}
    assert resolve_settings("task_arithmetic", {"scaling": [[1], [2]]}) == {"scaling": ((1.0,), (2.0,))}


@pytest.mark.parametrize(
    ("rule", "setting", "value", "message"),
    [
        ("ties_mean", "density", 0, r"ties_mean\.density: got 0; .*above 0 and at most 1"),
        ("ties_mean", "density", 20, r"ties_mean\.density: got 20"),
        ("ties_mean", "density", float("nan"), r"ties_mean\.density: got nan"),
        ("dare_ties_sum", "drop", 1.0, r"dare_ties_sum\.drop: got 1.0; .*from 0 to below 1"),
        ("dare_ties_sum", "seed", 0.5, r"dare_ties_sum\.seed: got 0.5; .*whole number"),
        ("dare_ties_sum", "density", 0.2, r"dare_ties_sum\.density: .*no such setting.*scaling, drop, seed"),
        ("task_arithmetic", "scaling", float("inf"), r"task_arithmetic\.scaling: got inf; .*finite"),
        ("task_arithmetic", "scaling", "0.3", r"task_arithmetic\.scaling: got '0.3'"),
        ("task_arithmetic", "scaling", [[1.0], 2.0], r"task_arithmetic\.scaling"),
        ("task_arithmetic", "scalings", 1.0, r"no such setting.*scaling \(did you mean it\?\)"),
        ("weight_average", "scaling", 1.0, r"weight_average\.scaling: .*the rule has no settings"),
        ("tie_mean", "scaling", 1.0, r"rule: got 'tie_mean'; .*ties_mean \(did you mean it\?\)"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(rule: str, setting: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_settings(rule, {setting: value})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(
    pretrained: dict[str, Tensor], vectors: dict[str, State], rule: str, number: float
) -> None:
    broken = {name: layer.clone() for name, layer in pretrained.items()}
    broken["proj"][2, 3] = number
    with pytest.raises(CheckpointError, match=r"task vector 'cars': got NaN or infinity in proj"):
        merge_states(pretrained, {**vectors, "cars": broken}, rule)
    with pytest.raises(CheckpointError, match=r"the pre-trained state: got NaN or infinity in proj"):
        merge_states(broken, vectors, rule)


def test_a_task_vector_of_other_layers_is_refused_by_its_task(pretrained: State, vectors: dict[str, State]) -> None:
    with pytest.raises(CheckpointError, match=r"task vector 'odd'.*missing"):
        merge_states(pretrained, {**vectors, "odd": {"proj": torch.ones(5, 11)}}, "weight_average")
    with pytest.raises(ConfigError, match="at least one task vector"):
        merge_states(pretrained, {}, "weight_average")


# ---- memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is read from /proc")
@pytest.mark.parametrize(
    ("rule", "tasks", "lazy"), [("ties_mean", 8, False), ("dare_ties_sum", 20, False), ("ties_mean", 20, True)]
)
def test_merging_holds_at_most_pretrained_merged_and_three_layers(
    rule: str, tasks: int, lazy: bool, tmp_path: Path
) -> None:
    benchmark = runpy.run_path(str(Path(__file__).parent / "benchmarks" / "merging_memory.py"))
    benchmark["write_states"](tmp_path, "small", 1, torch.bfloat16)
    for task in range(1, tasks):  # memory does not care that the tasks are equal
        (tmp_path / f"task_{task}.safetensors").symlink_to(tmp_path / "task_0.safetensors")
    row = benchmark["measure_apart"](tmp_path, "small", rule, tasks, lazy)
    assert row["layers"] == 5
    assert row["peak_mib"] <= row["allowed_mib"], row
