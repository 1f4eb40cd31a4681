"""Suites: what is on disk is opened as it was written, or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
from odd_suite import IMAGES, SHAPE, TASKS, save, write_odd_suite
from safetensors.torch import load_file

from intervmerge.bases.merged import merge
from intervmerge.cli.main import main
from intervmerge.errors import CheckpointError, ConfigError, SuiteError
from intervmerge.files import sha256_of
from intervmerge.interventions import InterventionConfig, Interventions, place
from intervmerge.suites.datasets.arrow import read_images, write_images
from intervmerge.suites.doctor.check import check
from intervmerge.suites.encoder import Architecture, Encoder, open_clip_architecture
from intervmerge.suites.suite import Suite, files_of, load_suite
from intervmerge.suites.suite_file import disagreements


def edit_yaml(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = yaml.safe_load((folder / "suite.yaml").read_text())
    change(values)
    (folder / "suite.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


# ---- the encoder


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_the_opened_tower_computes_what_open_clips_own_forward_does(activation: str) -> None:
    shape = Architecture(**{**vars(SHAPE), "activation": activation})
    encoder = Encoder(shape).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(images), encoder.tower(images), atol=1e-5, rtol=1e-5)


def test_class_only_attention_is_the_class_row_of_the_full_one() -> None:
    encoder = Encoder(SHAPE).eval()
    tokens = torch.randn(3, SHAPE.tokens, SHAPE.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full, row = encoder.attend(2, tokens), encoder.attend(2, tokens, class_only=True)
    torch.testing.assert_close(full[:, :1], row, atol=1e-6, rtol=1e-5)


def test_an_edit_of_z_is_added_before_the_residual() -> None:
    """Zeroing z of a block leaves x + mlp(ln_2(x)): two routes to the same tokens."""
    encoder = Encoder(SHAPE).eval()
    tokens = torch.randn(2, SHAPE.tokens, SHAPE.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cut = encoder.run(tokens, lambda site, block, z: torch.zeros_like(z) if site == "attention" else z)
        by_hand = tokens[:, :1]
        for block in range(SHAPE.blocks):
            by_hand = encoder.finish(block, by_hand)
        torch.testing.assert_close(cut, encoder.project(by_hand[:, 0]), atol=1e-5, rtol=1e-5)


def test_open_clip_names_give_the_published_towers() -> None:
    b32 = open_clip_architecture("ViT-B-32-quickgelu")
    assert (b32.width, b32.blocks, b32.heads, b32.grid, b32.features, b32.activation) == (
        768,
        12,
        12,
        7,
        512,
        "quick_gelu",
    )
    l14 = open_clip_architecture("ViT-L-14")
    assert (l14.width, l14.blocks, l14.heads, l14.grid, l14.features) == (1024, 24, 16, 16, 768)


@pytest.mark.parametrize("name", ["RN50", "ViT-B-33"])
def test_an_encoder_that_is_no_plain_transformer_is_refused(name: str) -> None:
    """One with batch statistics would make tasks depend on each other."""
    with pytest.raises(ConfigError, match=f"architecture: got '{name}'"):
        open_clip_architecture(name)


@pytest.mark.parametrize(("field", "value"), [("heads", 5), ("patch_size", 7), ("blocks", 0)])
def test_an_impossible_architecture_is_refused(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"architecture\.{field}: got {value}"):
        Architecture(**{**vars(SHAPE), field: value})


# ---- opening


def test_a_suite_is_opened_as_it_was_written(odd: Suite) -> None:
    assert odd.task_names == list(TASKS)
    for task in odd.tasks:
        assert {name: len(split) for name, split in task.splits.items()} == IMAGES
        assert task.splits["adapt"].labels is None
        assert task.head.shape == (TASKS[task.name], SHAPE.features)


def test_pretrained_plus_task_vector_is_the_finetuned_state(odd: Suite) -> None:
    for task in odd.tasks:
        for layer, weights in odd.pretrained.items():
            assert torch.equal(weights + task.task_vector[layer], task.finetuned[layer])


def test_whole_states_and_task_vectors_open_as_the_same_models(odd: Suite, tmp_path: Path) -> None:
    whole = load_suite(write_odd_suite(tmp_path / "whole", whole_states=True))
    for one, other in zip(odd.tasks, whole.tasks, strict=True):
        for layer in odd.pretrained:
            torch.testing.assert_close(one.task_vector[layer], other.task_vector[layer], atol=1e-6, rtol=0)


def test_a_suite_keeps_its_fingerprint_when_it_moves(odd: Suite, broken_folder: Path) -> None:
    assert load_suite(broken_folder).fingerprint == odd.fingerprint


def test_a_fingerprint_needs_no_hashes_in_the_file(odd: Suite, broken_folder: Path) -> None:
    edit_yaml(broken_folder, lambda values: values.pop("sha256"))
    assert load_suite(broken_folder).fingerprint == odd.fingerprint


def test_fingerprints_differ_when_a_weight_does(broken_folder: Path, odd: Suite) -> None:
    path = broken_folder / "weights/red.safetensors"
    tensors = load_file(path)
    tensors["proj"][0, 0] += 1
    save(path, tensors)
    edit_yaml(broken_folder, lambda values: values.pop("sha256"))
    assert load_suite(broken_folder).fingerprint != odd.fingerprint


# ---- refusing


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SuiteError, match=r"suite: got 'mini9'; .*; allowed: .*a folder with suite\.yaml"):
        load_suite("mini9")


def test_missing_weights_are_refused(broken_folder: Path) -> None:
    (broken_folder / "weights/red.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"red\.safetensors: got no such file"):
        load_suite(broken_folder)


def test_truncated_weights_are_refused(broken_folder: Path) -> None:
    path = broken_folder / "weights/green.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"green\.safetensors: .*whole safetensors file"):
        load_suite(broken_folder)


def test_weights_that_are_sent_to_another_process_are_those_that_were_opened(broken_folder: Path) -> None:
    suite, path = load_suite(broken_folder), broken_folder / "weights/red.safetensors"
    sent = pickle.dumps(suite.task("red").task_vector)
    assert len(sent) < path.stat().st_size / 10
    assert all(torch.equal(layer, suite.task("red").task_vector[name]) for name, layer in pickle.loads(sent).items())
    save(path, {name: tensor + 1 for name, tensor in load_file(path).items()})
    with pytest.raises(CheckpointError, match=r"red\.safetensors: got another file than before; weights stay"):
        pickle.loads(sent)["proj"]


def test_a_pickle_is_refused_unread(broken_folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("a pickle was loaded",))

    torch.save(Trap(), broken_folder / "weights/red.safetensors")
    with pytest.raises(CheckpointError, match="loading a pickle can run code"):
        load_suite(broken_folder)


def test_weights_of_another_shape_are_refused(broken_folder: Path) -> None:
    path = broken_folder / "weights/blue.safetensors"
    save(path, {**load_file(path), "proj": torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match=r"proj of shape \[3, 3\]; .*allowed: \[48, 24\]"):
        load_suite(broken_folder)


def test_missing_and_unexpected_layers_are_named_together(broken_folder: Path) -> None:
    path = broken_folder / "weights/blue.safetensors"
    tensors = load_file(path)
    tensors["projection"] = tensors.pop("proj")
    save(path, tensors)
    with pytest.raises(CheckpointError, match=r"missing \['proj'\], unexpected \['projection'\]"):
        load_suite(broken_folder)


def test_nan_in_weights_is_refused_when_the_layer_is_read(broken_folder: Path) -> None:
    path = broken_folder / "weights/red.safetensors"
    tensors = load_file(path)
    tensors["proj"][0, 0] = torch.nan
    save(path, tensors)
    with pytest.raises(CheckpointError, match="1 NaN or infinite values in proj"):
        load_suite(broken_folder).task("red").task_vector["proj"]


def test_a_finetuned_state_in_half_precision_is_refused(tmp_path: Path) -> None:
    folder = write_odd_suite(tmp_path / "half", whole_states=True)
    path = folder / "weights/red.safetensors"
    save(path, {name: tensor.bfloat16() for name, tensor in load_file(path).items()})
    with pytest.raises(CheckpointError, match="stored as BF16; a fine-tuned state in half precision"):
        load_suite(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(arcitecture={}), "arcitecture: got a key of no meaning; .*architecture"),
        (lambda v: v.pop("pretrained"), "pretrained: got nothing"),
        (lambda v: v["architecture"].update(width="48"), "width"),
        (lambda v: v["tasks"].clear(), "tasks: got"),
        (lambda v: v["tasks"].append(v["tasks"][0]), "names of tasks differ"),
        (lambda v: v["tasks"][0].update(finetuned="x"), "both of finetuned and task_vector"),
        (lambda v: v["tasks"][0]["classes"].pop(), r"weight of shape \[3, 24\]"),
    ],
)
def test_a_wrong_suite_yaml_is_refused(broken_folder: Path, change: Callable[[object], object], message: str) -> None:
    edit_yaml(broken_folder, change)
    with pytest.raises((SuiteError, ConfigError, CheckpointError), match=message):
        load_suite(broken_folder)


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_holds_no_plain_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"suite\.yaml(, line 1)?: got"):
        load_suite(tmp_path)


def test_images_that_are_not_arrow_are_refused(broken_folder: Path) -> None:
    (broken_folder / "images/red.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(SuiteError, match=r"red\.arrow: .*columns image, label, split"):
        load_suite(broken_folder)


# ---- checking


def test_a_sound_suite_has_no_findings(odd: Suite) -> None:
    assert list(check(odd)) == []


def test_check_finds_everything_that_is_wrong(broken_folder: Path) -> None:
    weights = broken_folder / "weights/red.safetensors"
    save(weights, {name: tensor + torch.nan for name, tensor in load_file(weights).items()})
    head = broken_folder / "heads/green.safetensors"
    save(head, {"weight": -load_file(head)["weight"]})
    splits = read_images(broken_folder / "images/blue.arrow", SHAPE.image_size)
    splits["adapt"].pixels[:3] = splits["test"].pixels[:3]
    write_images(broken_folder / "images/blue.arrow", splits)
    findings = "\n".join(check(load_suite(broken_folder)))
    assert "weights/red.safetensors: sha256 is" in findings
    assert "task vector of red: " in findings
    assert "NaN" in findings
    assert "green: the fine-tuned model has" in findings
    assert "images/blue.arrow: sha256 is" in findings
    assert "blue: 3 images stand in both adapt and test" in findings


def test_the_packaged_suite_says_what_it_is() -> None:
    """Its files are those that its hashes name; accuracy is `suite check`'s business."""
    mini8 = load_suite("mini8")
    assert (len(mini8.tasks), mini8.architecture.blocks, mini8.architecture.width) == (8, 12, 96)
    assert "stand-in" in mini8.file.note
    for task in mini8.tasks:
        assert {name: len(split) for name, split in task.splits.items()} == {
            "adapt": 512,
            "validation": 500,
            "test": 1000,
        }
        assert task.splits["adapt"].labels is None
    assert all(mini8.file.sha256[path] == sha256_of(mini8.folder / path) for path in files_of(mini8.file))
    assert all(task.source and task.licence for task in mini8.file.tasks)


# ---- what a suite may be


@pytest.mark.parametrize(
    "name",
    [
        '№ 5 — (β), "x"',
        "cars [/v2]",
        "[red]bold[/red]",
        "C# (digits)",
        "ViT-B/32",
        "数字　認識",
        "a\u200db",
        "extra_params",
    ],
)
def test_any_text_that_prints_is_a_name(broken_folder: Path, name: str) -> None:
    edit_yaml(broken_folder, lambda v: (v.update(name=name), v["tasks"][0].update(name=name)))
    suite = load_suite(broken_folder)
    assert (suite.name, suite.task_names) == (name, [name, "green", "blue"])
    assert list(check(suite)) == []


@pytest.mark.parametrize(
    "name", ["", " ", " red", "red ", "a\nb", "a\tb", "a\0b", "a\x7fb", "a\u2028b", "\ud800", "a" * 201, None, 5]
)
@pytest.mark.parametrize("place", ["name", r"tasks\.1\.name"])
def test_what_is_no_name_is_refused_with_its_line(broken_folder: Path, name: object, place: str) -> None:
    edit_yaml(broken_folder, lambda v: (v if place == "name" else v["tasks"][1]).update(name=name))
    with pytest.raises(ConfigError, match=rf"suite\.yaml, line \d+, {place}: got"):
        load_suite(broken_folder)


@pytest.mark.parametrize("pair", [("a", "a"), ("caf\u00e9", "cafe\u0301"), ("a", "a/0"), ("x/y/z", "x/y")])
def test_names_that_would_be_taken_for_each_other_are_refused(broken_folder: Path, pair: tuple[str, str]) -> None:
    edit_yaml(broken_folder, lambda v: [task.update(name=name) for task, name in zip(v["tasks"], pair, strict=False)])
    with pytest.raises(ConfigError, match=r"suite\.yaml, line \d+, tasks\.1\.name: got"):
        load_suite(broken_folder)


def test_a_slash_in_a_name_keeps_its_interventions_apart(broken_folder: Path, tmp_path: Path) -> None:
    edit_yaml(
        broken_folder, lambda v: [t.update(name=n) for t, n in zip(v["tasks"], ("a/0", "a/1", "a0"), strict=True)]
    )
    names = load_suite(broken_folder).task_names
    placement = place(InterventionConfig(rank=2), width=SHAPE.width, num_blocks=SHAPE.blocks, grid=SHAPE.grid)
    one = Interventions.start([(name, placement) for name in names], seed=0)
    one.save(tmp_path / "i.safetensors")
    again = Interventions.load(tmp_path / "i.safetensors").state_by_task()
    assert all(torch.equal(t, again[n][k]) for n, own in one.state_by_task().items() for k, t in own.items())


@pytest.mark.parametrize(
    ("mean", "std", "key"),
    [([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], "mean"), ([0.5, 0.5, 0.5], [58.4, 57.1, 57.4], "std"),
     ([-0.1, 0.5, 0.5], [0.2, 0.2, 0.2], "mean"), ([0.5, 0.5, 0.5], [0.2, 0.0, 0.2], "std"),
     ([0.5, 0.5, 0.5], [0.2, 0.2, -0.2], "std"), ([0.5, 0.5, 0.5], [0.001, 0.001, 0.001], "std")],
)  # fmt: skip
def test_a_normalisation_of_pixels_that_are_not_scaled_is_refused(
    broken_folder: Path, mean: list[float], std: list[float], key: str
) -> None:
    edit_yaml(broken_folder, lambda v: v["normalization"].update(mean=mean, std=std))
    with pytest.raises(ConfigError, match=rf"suite\.yaml, line \d+, normalization\.{key}: got .*; pixels are scaled"):
        load_suite(broken_folder)


@pytest.mark.parametrize(
    "sizes",
    [{"width": 2**62, "heads": 3}, {"blocks": 10**9}, {"image_size": 2**40, "patch_size": 7}, {"mlp_ratio": -1.0},
     {"mlp_ratio": 1e-9}, {"mlp_ratio": 1e30}],
)  # fmt: skip
def test_a_tower_that_cannot_be_built_is_refused_at_once(broken_folder: Path, sizes: dict[str, float]) -> None:
    edit_yaml(broken_folder, lambda v: v["architecture"].update(sizes))
    with pytest.raises(ConfigError, match=r"suite\.yaml, line \d+, architecture\.\w+: got"):
        load_suite(broken_folder)


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "local-dir:/etc", "", "ViT-B/32"])
def test_an_architecture_is_looked_up_nowhere_but_in_open_clips_list(name: str) -> None:
    with pytest.raises(ConfigError, match=r"architecture: got .*open_clip has no such model"):
        open_clip_architecture(name)


# ---- images


def relabelled(path: Path, kind: pa.DataType, value: Callable[[int], object]) -> None:
    """The labels of an Arrow file as another type."""
    rewritten(path, label=lambda column: pa.array([None if x is None else value(x) for x in column.to_pylist()], kind))


def rewritten(path: Path, **columns: Callable[[pa.ChunkedArray], pa.Array]) -> None:
    """An Arrow file with some columns made anew; a column of None is left out."""
    table = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all().combine_chunks()
    for name, change in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, change(table.column(name)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()], ids=str
)
def test_labels_are_whole_numbers_of_any_size(broken_folder: Path, odd: Suite, kind: pa.DataType) -> None:
    relabelled(broken_folder / "images/red.arrow", kind, int)
    for split in ("validation", "test"):
        found, meant = (s.task("red").splits[split].labels for s in (load_suite(broken_folder), odd))
        assert torch.equal(found, meant)  # type: ignore[arg-type]
        assert found.dtype == torch.int64  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.string(), str), (pa.float32(), float), (pa.bool_(), bool), (pa.null(), lambda _: None),
     (pa.list_(pa.int8()), lambda x: [x]), (pa.date32(), lambda x: x), (pa.decimal128(5), Decimal)],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_labels_that_are_no_whole_numbers_are_refused_with_the_columns_type(
    broken_folder: Path, kind: pa.DataType, value: Callable[[int], object]
) -> None:
    relabelled(broken_folder / "images/red.arrow", kind, value)
    with pytest.raises(SuiteError, match=rf"red\.arrow, column label: got type {re.escape(str(kind))}"):
        load_suite(broken_folder)


@pytest.mark.parametrize("label", [-1, 3, 2**63])
def test_a_label_that_is_no_class_is_refused(broken_folder: Path, label: int) -> None:
    relabelled(broken_folder / "images/red.arrow", pa.uint64() if label > 0 else pa.int64(), lambda _: label)
    with pytest.raises(SuiteError, match=r"red\.arrow, split validation: got .*; a label is a class"):
        load_suite(broken_folder)


def with_null(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None, *column.to_pylist()[1:]], column.type)


def with_null_pixel(column: pa.ChunkedArray) -> pa.Array:
    images = column.to_pylist()
    images[0][0] = None
    return pa.array(images, column.type)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [("image", with_null, "got 1 images, 0 pixels and 0 splits that are null"),
     ("image", with_null_pixel, "got 0 images, 1 pixels and 0 splits that are null"),
     ("split", with_null, "got 0 images, 0 pixels and 1 splits that are null"),
     ("split", lambda column: pa.array([1] * len(column)), "column split: got type int64"),
     ("split", lambda column: pa.array(["adapt"] * len(column)), "split validation: got no images"),
     ("image", lambda column: pa.array([b"x"] * len(column)), "column image: got type binary"),
     ("image", lambda column: pa.array([[1] * 12] * len(column), pa.list_(pa.uint8(), 12)), "column image: got type f"),
     ("label", lambda column: with_null(column.take(list(range(len(column) - 1, -1, -1)))), "without label")],
)  # fmt: skip
def test_images_with_something_missing_are_refused(
    broken_folder: Path, name: str, change: Callable[[pa.ChunkedArray], pa.Array], message: str
) -> None:
    rewritten(broken_folder / "images/red.arrow", **{name: change})
    with pytest.raises(SuiteError, match=rf"red\.arrow.*{message}"):
        load_suite(broken_folder)


def test_text_of_splits_needs_no_dictionary(broken_folder: Path, odd: Suite) -> None:
    for kind in (pa.string(), pa.large_string()):
        rewritten(
            broken_folder / "images/red.arrow", split=lambda column, kind=kind: pa.array(column.to_pylist(), kind)
        )
        suite = load_suite(broken_folder)
        assert suite.task("red").splits["test"].fingerprint == odd.task("red").splits["test"].fingerprint


def test_an_arrow_file_cut_or_flipped_anywhere_is_opened_or_refused(broken_folder: Path) -> None:
    path = broken_folder / "images/red.arrow"
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        at, bit = (int(torch.randint(0, most, (), generator=generator)) for most in (len(whole), 8))
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]):
            path.write_bytes(broken)
            with contextlib.suppress(SuiteError):
                assert set(read_images(path, SHAPE.image_size)) == set(IMAGES)


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"\0" * 4096])
def test_files_that_hold_nothing_are_refused(broken_folder: Path, content: bytes) -> None:
    (broken_folder / "images/red.arrow").write_bytes(content)
    with pytest.raises(SuiteError, match=r"red\.arrow: got"):
        load_suite(broken_folder)
    (broken_folder / "images/red.arrow").unlink()
    (broken_folder / "weights/red.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"red\.safetensors: got"):
        load_suite(broken_folder)


# ---- files


@pytest.mark.parametrize(
    "path", ["../gone/red.safetensors", "/gone/red.safetensors", "", ".", "a" * 5_000, "weights", "/dev/null"]
)
@pytest.mark.parametrize(("key", "of"), [("task_vector", "weights"), ("head", "weights"), ("images", "images")])
def test_a_path_that_leads_nowhere_is_refused(broken_folder: Path, path: str, key: str, of: str) -> None:
    edit_yaml(broken_folder, lambda v: v["tasks"][0].update({key: path}))
    with pytest.raises((CheckpointError, SuiteError), match=r": got .*; .*; allowed: "):
        load_suite(broken_folder)


@pytest.mark.parametrize("name", ["a" * 5_000, "a\0b", "\ud800"])
def test_a_suite_that_can_be_no_path_is_refused(name: str) -> None:
    with pytest.raises(SuiteError, match=r"suite: got .*; it must be a packaged suite or a path"):
        load_suite(name)


def test_weights_outside_the_folder_may_be_named(broken_folder: Path, odd: Suite, tmp_path: Path) -> None:
    (broken_folder / "weights/red.safetensors").rename(tmp_path / "outside.safetensors")
    for named in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        edit_yaml(broken_folder, lambda v, named=named: v["tasks"][0].update(task_vector=named))
        assert load_suite(broken_folder).fingerprint == odd.fingerprint


def test_two_weight_files_in_each_others_place_are_found(broken_folder: Path, odd: Suite) -> None:
    weights = broken_folder / "weights"
    (weights / "red.safetensors").rename(weights / "x")
    (weights / "green.safetensors").rename(weights / "red.safetensors")
    (weights / "x").rename(weights / "green.safetensors")
    suite = load_suite(broken_folder)
    assert suite.fingerprint != odd.fingerprint
    assert len(disagreements(suite.file, suite.hashes)) == 2


# ---- written hashes


def test_a_written_hash_that_is_not_the_files_is_said_once(
    odd: Suite, broken_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_yaml(broken_folder, lambda v: v["sha256"].update({"heads/red.safetensors": "0" * 64}))
    for _ in range(2):
        assert merge(load_suite(broken_folder)).fingerprint == merge(odd).fingerprint
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "heads/red.safetensors: sha256 is" in said[0]
    assert str(broken_folder) in said[0]


@pytest.mark.parametrize("style", ["block", "flow", "none", "last"])
def test_repair_writes_the_hashes_of_the_files_and_leaves_the_rest(
    broken_folder: Path, style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broken_folder / "suite.yaml"
    values = yaml.safe_load(path.read_text())
    hashes = {**values.pop("sha256"), "weights/red.safetensors": "0" * 64, "gone.arrow": "1" * 64}
    written = {"sha256": hashes} if style != "none" else {}
    if style == "flow":
        path.write_text(json.dumps({**values, **written}))
    else:
        parts = [yaml.safe_dump(part, sort_keys=False) for part in (written, values) if part]
        path.write_text("\n# of ours\n".join(reversed(parts) if style == "last" else parts).rstrip("\n"))
    assert main(["suite", "check", str(broken_folder)]) == 1
    assert "--repair writes their hashes" in capsys.readouterr().out
    assert main(["suite", "check", "--repair", str(broken_folder)]) == 0
    assert "): 0 findings" in capsys.readouterr().out
    after = yaml.safe_load(path.read_text())
    assert after.pop("sha256") == {name: sha256_of(broken_folder / name) for name in hashes if name != "gone.arrow"}
    assert after == values
    assert ("# of ours" in path.read_text()) == (style in ("block", "last"))


def test_check_finds_classes_that_cannot_be_told_apart(broken_folder: Path) -> None:
    edit_yaml(broken_folder, lambda v: v["tasks"][0].update(classes=["a", "b", "a"]))
    assert "red: several classes are named 'a'" in list(check(load_suite(broken_folder)))


def test_check_finds_features_that_are_not_finite(broken_folder: Path) -> None:
    path = broken_folder / "weights/red.safetensors"
    tensors = load_file(path)
    save(path, {**tensors, "proj": tensors["proj"] + 3e38})
    assert "features of the fine-tuned model are infinite or NaN" in "\n".join(check(load_suite(broken_folder)))
