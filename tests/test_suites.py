"""Suites: what is on disk is opened as it was written, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from odd_suite import IMAGES, SHAPE, TASKS, save, write_odd_suite
from safetensors.torch import load_file

from intervmerge.errors import CheckpointError, ConfigError, SuiteError
from intervmerge.files import sha256_of
from intervmerge.suites.check import check
from intervmerge.suites.encoder import Architecture, Encoder, open_clip_architecture
from intervmerge.suites.images import read_images, write_images
from intervmerge.suites.suite import Suite, files_of, load_suite


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
        cut = encoder.run(tokens, lambda block, z: torch.zeros_like(z))
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
    with pytest.raises(ConfigError, match=r"suite\.yaml: got"):
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
