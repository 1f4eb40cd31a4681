"""Checkpoints that circulate: each format reads to what its own library computes; each fault is named; no file acts."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from checkpoint_forms import (
    SMALL,
    ImageEncoder,
    Openai,
    State,
    adapter,
    aged,
    hugging_face,
    in_hub,
    prefixed,
    sharded,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intervmerge.errors import CheckpointError
from intervmerge.suites.encoder import Architecture, Encoder, open_clip_architecture
from intervmerge.suites.readers.canonical import Read, Target
from intervmerge.suites.readers.containers.opening import CONTAINERS, open_stored
from intervmerge.suites.readers.table import READERS, read_checkpoint

TEXT = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}


def images(architecture: Architecture = SMALL) -> Tensor:
    size = architecture.image_size
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def features(state: Any, architecture: Architecture = SMALL) -> Tensor:
    return Encoder(architecture).load(state).features(images(architecture))


def open_clip_model(seed: int = 0, architecture: Architecture = SMALL) -> nn.Module:
    import open_clip

    torch.manual_seed(seed)
    vision = {
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
        "width": architecture.width,
        "layers": architecture.blocks,
        "head_width": architecture.width // architecture.heads,
    }
    model = open_clip.CLIP(architecture.features, vision, TEXT, quick_gelu=True)
    for name, parameter in model.named_parameters():  # large enough that attention is far from uniform
        if "logit" not in name:
            nn.init.normal_(parameter, 1.0 if re.search(r"ln_\w+\.weight", name) else 0.0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return open_clip_model()


@pytest.fixture(scope="module")
def tower(model: nn.Module) -> State:
    """The vision tower in canonical form."""
    return {name: tensor.detach() for name, tensor in model.visual.named_parameters()}


@pytest.fixture(scope="module")
def tuned(tower: State) -> State:
    """A model near the tower, as fine-tuning leaves it."""
    torch.manual_seed(5)
    return {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in tower.items()}


# ---------------------------------------------------------------------------------------------- open_clip's names


def saved(save: Callable[[State, Path], Any]) -> Callable[[State, Path], Path]:
    def write(state: State, path: Path) -> Path:
        save(state, path)
        return path

    return write


WRITERS: dict[str, Callable[[State, Path], Path]] = {
    "safetensors": saved(save_file),
    "torch.save": saved(torch.save),
    "torch.save, legacy": saved(lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
    "plain pickle": saved(lambda state, path: path.write_bytes(pickle.dumps(state))),
    "plain pickle, protocol 2": saved(lambda state, path: path.write_bytes(pickle.dumps(state, 2))),
    "shards": sharded,
}
PREFIXES = ("", "visual.", "model.visual.", "module.visual.", "module.model.visual.", "state_dict.module.visual.")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_tower_in_open_clips_names_reads_to_the_bit_behind_any_prefix(
    writer: str, prefix: str, tower: State, tmp_path: Path
) -> None:
    read = read_checkpoint(WRITERS[writer](prefixed(tower, prefix), tmp_path / "weights.any"), Target(SMALL))
    assert list(read.state) == list(tower)
    assert all(torch.equal(read.state[name], tower[name]) for name in tower)
    assert (read.format, read.dropped, read.borrowed) == ("open_clip", {}, {})


@pytest.mark.parametrize("writer", ["safetensors", "torch.save", "torch.save, legacy", "plain pickle"])
def test_a_whole_model_gives_its_tower_and_says_what_it_dropped(
    writer: str, model: nn.Module, tower: State, tmp_path: Path
) -> None:
    state = {**prefixed(dict(model.state_dict()), "model."), "model.steps": torch.tensor(3)}
    read = read_checkpoint(WRITERS[writer](state, tmp_path / "m"), Target(SMALL))
    with torch.no_grad():
        assert torch.allclose(features(read.state), model.encode_image(images()), atol=1e-4)
    assert read.dropped["model.logit_scale"] == "the scale of logits is in the heads"
    assert read.dropped["model.positional_embedding"].startswith("of the text tower")
    assert read.dropped["model.steps"] == "a buffer of integers"
    assert set(read.dropped) == {name for name in state if not name.startswith("model.visual.")}


def test_what_a_training_saved_beside_the_weights_is_named(tmp_path: Path) -> None:
    model = open_clip_model()
    optimizer = torch.optim.AdamW(model.visual.parameters())
    model.encode_image(images()).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "name": "run", "state_dict": prefixed(dict(model.state_dict()), "module.")}
    torch.save({**saved, "optimizer": optimizer.state_dict(), "model_name": "ViT-B-32"}, tmp_path / "epoch_3.pt")
    read = read_checkpoint(tmp_path / "epoch_3.pt", Target(SMALL))
    assert all(torch.equal(read.state[name], tensor) for name, tensor in model.visual.named_parameters())
    assert read.dropped["model_name"] == "no tensor: str"
    assert read.dropped["optimizer.state.0.exp_avg"] == "state of a training"


def test_a_state_dict_reads_as_weights_only_reads_it(tower: State, tmp_path: Path) -> None:
    odd = {
        "strided": torch.arange(24.0).view(4, 6).T[1:, ::2],
        "empty": torch.empty(0, 3),
        "half": torch.ones(2).half(),
        "scalar": torch.tensor(2.5),
        "double": torch.ones(2).double(),
        "brain": torch.ones(3).bfloat16() / 3,
        "whole": torch.arange(5),
        "yes": torch.tensor([True, False]),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    for legacy in (False, True):
        torch.save(OrderedDict(odd), tmp_path / "odd.pt", _use_new_zipfile_serialization=not legacy)
        expected = torch.load(tmp_path / "odd.pt", weights_only=True)
        stored = open_stored(tmp_path / "odd.pt")
        assert set(stored.entries) == set(expected)
        for name, entry in stored.entries.items():
            assert entry.dtype == expected[name].dtype
            assert torch.equal(entry.read(), expected[name])


# ------------------------------------------------------------------------------------- modules whose classes are gone


@pytest.fixture
def old_classes(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], nn.Module]:
    return lambda module: aged(module, monkeypatch)


def legacy_module(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for the source of classes, which are gone here
        torch.save(module, path, _use_new_zipfile_serialization=False)


MODULE_WRITERS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "zip": torch.save,
    "legacy": legacy_module,
    "plain pickle": lambda module, path: path.write_bytes(pickle.dumps(module)),
}


@pytest.mark.parametrize("writer", MODULE_WRITERS)
def test_a_pickled_module_reads_though_its_classes_are_gone(
    writer: str, old_classes: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = old_classes(ImageEncoder(open_clip_model(3)))
    with torch.no_grad():
        expected = module.model.encode_image(images())
    MODULE_WRITERS[writer](module, tmp_path / "finetuned.pt")
    monkeypatch.undo()
    assert b"VisualTransformer" in (tmp_path / "finetuned.pt").read_bytes()
    with pytest.raises(Exception, match=r"VisualTransformer|src"):
        torch.load(tmp_path / "finetuned.pt", weights_only=False)
    read = read_checkpoint(tmp_path / "finetuned.pt", Target(SMALL))
    assert torch.allclose(features(read.state), expected, atol=1e-4)
    text = {"positional_embedding", "text_projection", "logit_scale", "token_embedding.weight"}
    text |= {"ln_final.weight", "ln_final.bias", "attn_mask"}
    assert set(read.dropped) <= {f"model.{name}" for name in text}
    assert "src.modeling" not in sys.modules


def test_a_torchscript_archive_gives_its_tensors(model: nn.Module, tower: State, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript says that it is old; so are the archives
        traced = torch.jit.trace(Openai(open_clip_model().visual).eval(), images(), check_trace=False)
        traced.half().save(str(tmp_path / "ViT-B-32.pt"))
    read = read_checkpoint(tmp_path / "ViT-B-32.pt", Target(SMALL))
    assert read.container == "TorchScript"
    assert all(torch.equal(read.state[name], tower[name].half().float()) for name in tower)
    assert set(read.dropped) == {"logit_scale", "input_resolution"}
    assert read.stored_as == {"float16": len(tower)}


# ------------------------------------------------------------------------------------------------ transformers' names


def its_features(kind: str, model: Any, base: State, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        if kind == "CLIPVisionModel":
            return model(pixels).pooler_output @ base["proj"]
        if kind == "CLIPModel":
            found = model.get_image_features(pixels)
            return found if isinstance(found, Tensor) else found.pooler_output
        return model(pixels).image_embeds


KINDS = ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["safetensors", "bin", "shards", "other prefix"])
def test_a_transformers_model_computes_what_transformers_computes(
    kind: str, form: str, tower: State, tmp_path: Path
) -> None:
    model = hugging_face(kind)
    model.save_pretrained(tmp_path, **({"max_shard_size": "50KB"} if form == "shards" else {}))
    if form == "bin":
        state = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        torch.save(state, tmp_path / "pytorch_model.bin")
    if form == "other prefix":  # with vision_model., as before transformers 5.6, or without, as since
        state = load_file(tmp_path / "model.safetensors")
        had = any(name.startswith("vision_model.") for name in state)
        beside = ("visual_projection", "text_", "logit_scale")
        rename = (lambda n: n.removeprefix("vision_model.")) if had else (lambda n: f"vision_model.{n}")
        save_file(
            {n if n.startswith(beside) else rename(n): t for n, t in state.items()}, tmp_path / "model.safetensors"
        )
    read = read_checkpoint(tmp_path, Target(SMALL, tower))
    assert read.format == "transformers"
    assert torch.allclose(features(read.state), its_features(kind, model, tower, images()), atol=1e-4)
    assert list(read.borrowed) == (["proj"] if kind == "CLIPVisionModel" else [])
    assert ("position_ids" in str(read.dropped)) == (form == "bin")


def test_a_model_without_projection_is_no_pre_trained_model(tmp_path: Path) -> None:
    hugging_face("CLIPVisionModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing visual_projection\.weight;"):
        read_checkpoint(tmp_path, Target(SMALL))


def test_a_config_that_contradicts_the_architecture_is_refused_at_once(tower: State, tmp_path: Path) -> None:
    hugging_face("CLIPVisionModel").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"hidden_act": "gelu", "num_attention_heads": 6, "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"hidden_act 'gelu'.*num_attention_heads 6.*layer_norm_eps 1e-06"):
        read_checkpoint(tmp_path, Target(SMALL, tower))


def test_open_clips_config_is_held_against_the_architecture_too(tower: State, tmp_path: Path) -> None:
    save_file(tower, tmp_path / "open_clip_model.safetensors")
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3}
    config = {"model_cfg": {"embed_dim": 20, "quick_gelu": True, "vision_cfg": vision}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert read_checkpoint(tmp_path, Target(SMALL)).dropped == {}
    del config["model_cfg"]["quick_gelu"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="says activation 'gelu', the architecture 'quick_gelu'"):
        read_checkpoint(tmp_path, Target(SMALL))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hub's client, which may not ask the hub."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "pytorch_model.bin"])
def test_an_id_of_the_hub_reads_from_what_was_downloaded(tower: State, offline: Path, name: str) -> None:
    in_hub(offline, "somebody/some-model", {name: tower})
    assert torch.equal(read_checkpoint("somebody/some-model", Target(SMALL)).state["proj"], tower["proj"])


def test_of_an_id_of_the_hub_safetensors_are_read_and_not_the_pickle_beside_them(tower: State, offline: Path) -> None:
    other = {name: tensor + 1 for name, tensor in tower.items()}
    in_hub(offline, "somebody/some-model", {"model.safetensors": tower, "pytorch_model.bin": other})
    assert torch.equal(read_checkpoint("somebody/some-model", Target(SMALL)).state["proj"], tower["proj"])


def test_an_id_of_the_hub_that_was_not_downloaded_names_the_local_route(offline: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nobody/no-such-model: .*hf download nobody/no-such-model --local-dir"):
        read_checkpoint("nobody/no-such-model", Target(SMALL))


@pytest.mark.parametrize("path", ["ckpts/typo", "nowhere/zeroshot.pt", "nowhere/model.safetensors", "a/b/c", "typo"])
def test_a_path_that_is_mistyped_is_asked_of_nobody(path: str, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(offline)
    (offline / "ckpts").mkdir()
    with pytest.raises(CheckpointError, match="got no such file"):
        read_checkpoint(path, Target(SMALL))


# -------------------------------------------------------------------------------------------------------------- LoRA

LORA: dict[str, dict[str, Any]] = {
    "q, v": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "q, k, v, out": {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]},
    "mlp": {"r": 2, "lora_alpha": 3, "target_modules": ["fc1", "fc2"]},
    "rsLoRA": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "fc1"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "fc1"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.fc1": 6},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 1},
    },
    "patterns and rsLoRA": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "fc2"],
        "use_rslora": True,
        "rank_pattern": {"fc2": 3},
        "alpha_pattern": {"fc2": 5},
    },
    "a convolution": {"r": 4, "lora_alpha": 8, "target_modules": ["patch_embedding"]},
    "some layers": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "the projection": {"r": 4, "lora_alpha": 8, "target_modules": ["visual_projection", "k_proj"]},
}


@pytest.mark.parametrize("row", LORA)
@pytest.mark.parametrize("form", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_computes_what_peft_merges(row: str, form: str, tmp_path: Path) -> None:
    kind = "CLIPVisionModelWithProjection"
    hugging_face(kind).save_pretrained(tmp_path / "base")
    base = read_checkpoint(tmp_path / "base", Target(SMALL))
    merged = adapter(LORA[row], hugging_face(kind), tmp_path / "lora")
    if form.endswith(".bin"):
        torch.save(load_file(tmp_path / "lora/adapter_model.safetensors"), tmp_path / "lora" / form)
        (tmp_path / "lora/adapter_model.safetensors").unlink()
    read = read_checkpoint(tmp_path / "lora", Target(SMALL, base.state))
    assert read.format == "peft_lora"
    assert torch.allclose(features(read.state), its_features(kind, merged, {}, images()), atol=1e-4)
    assert not torch.allclose(features(read.state), features(base.state), atol=1e-3)
    again = {name: tensor.clone() for name, tensor in base.state.items()}
    for part in read.low_rank:
        rows = again[part.layer][part.start : part.start + len(part.b)]
        rows += (part.scaling * part.b @ part.a).view_as(rows)
    assert all(torch.allclose(again[name], read.state[name], atol=1e-6) for name in again)


def test_an_adapter_on_the_inner_vision_model_reads_too(tower: State, tmp_path: Path) -> None:
    model = hugging_face("CLIPVisionModel")
    inner = getattr(model, "vision_model", model)
    model.save_pretrained(tmp_path / "base")
    base = read_checkpoint(tmp_path / "base", Target(SMALL, tower))
    adapter(LORA["q, v"], inner, tmp_path / "lora")
    read = read_checkpoint(tmp_path / "lora", Target(SMALL, base.state))
    with torch.no_grad():
        expected = inner(images()).pooler_output @ tower["proj"]
    assert torch.allclose(features(read.state), expected, atol=1e-4)
    assert [part.start for part in read.low_rank] == [0, 2 * SMALL.width] * SMALL.blocks


def test_the_text_towers_part_of_an_adapter_is_dropped_and_said(tower: State, tmp_path: Path) -> None:
    merged = adapter(LORA["q, v"], hugging_face("CLIPModel"), tmp_path / "lora")
    hugging_face("CLIPModel").save_pretrained(tmp_path / "base")
    base = read_checkpoint(tmp_path / "base", Target(SMALL))
    read = read_checkpoint(tmp_path / "lora", Target(SMALL, base.state))
    assert torch.allclose(features(read.state), its_features("CLIPModel", merged, {}, images()), atol=1e-4)
    assert len(read.dropped) == 4
    assert all("text_model" in name for name in read.dropped)


def test_an_adapter_on_open_clips_attention_is_refused_as_peft_applies_it_in_a_way_of_its_own(
    tower: State, tmp_path: Path
) -> None:
    adapter({"r": 4, "lora_alpha": 8, "target_modules": ["attn"]}, open_clip_model().visual, tmp_path)
    with pytest.raises(CheckpointError, match=r"resblocks\.2\.attn\.base_layer\.out_proj wraps open_clip's attention"):
        read_checkpoint(tmp_path, Target(SMALL, tower))


def test_an_adapter_on_open_clips_own_mlp_reads_too(tower: State, tmp_path: Path) -> None:
    model = open_clip_model().visual
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["c_fc", "c_proj"]}
    merged = adapter(config, model, tmp_path)
    read = read_checkpoint(tmp_path, Target(SMALL, tower))
    with torch.no_grad():
        assert torch.allclose(features(read.state), merged(images()), atol=1e-4)
    assert len(read.low_rank) == 2 * SMALL.blocks


REFUSED_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora"),
    "trained biases": ({"bias": "lora_only"}, "bias lora_only"),
    "IA3": ({"peft_type": "IA3"}, "kind IA3"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    "whole modules": ({"modules_to_save": ["classifier"]}, "modules_to_save"),
    "what is not known yet": ({"use_tomorrow": True}, "use_tomorrow"),
    "a rank that is no number": ({"r": "many"}, "r must be a number"),
    "a pattern without end": ({"rank_pattern": {"(a+)+b": 3}}, "without end"),
    "another rank": ({"r": 5}, "for rank 5"),
}


@pytest.mark.parametrize("row", REFUSED_KINDS)
def test_an_adapter_of_another_kind_is_refused_by_name(row: str, tower: State, tmp_path: Path) -> None:
    adapter(LORA["q, v"], hugging_face("CLIPVisionModelWithProjection"), tmp_path)
    changed, said = REFUSED_KINDS[row]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_checkpoint(tmp_path, Target(SMALL, tower))


def test_all_faults_of_an_adapter_are_in_one_error(tower: State, tmp_path: Path) -> None:
    adapter(LORA["q, v"], hugging_face("CLIPVisionModelWithProjection"), tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    names = sorted(state)
    lone = names[0].replace("lora_A", "lora_B")
    del state[lone]
    state[names[2]] = torch.ones(4, 5)
    state[names[5]] = state[names[5]] * float("nan")
    state["base_model.model.encoder.layers.9.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 48)
    state["base_model.model.surplus"] = torch.ones(2)
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path, Target(SMALL, tower))
    for said in ("has only A", "[4, 5]", "NaN or infinite", "layers.9.self_attn.q_proj is no layer", "surplus"):
        assert said in str(caught.value)


# ---------------------------------------------------------------------------------------------------- what is refused


def test_linearised_models_and_adapters_are_named(tower: State, tmp_path: Path) -> None:
    values = list(tower.values())
    tangent = {f"params.{i}": t for i, t in enumerate(values)} | {f"params0.{i}": t for i, t in enumerate(values)}
    torch.save({**tangent, "model_name": "ViT-B-32"}, tmp_path / "linear_finetuned.pt")
    with pytest.raises(CheckpointError, match="a linearised model"):
        read_checkpoint(tmp_path / "linear_finetuned.pt", Target(SMALL, tower))
    layer = "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.default"
    save_file(
        {f"{layer}.model.weight": torch.ones(2, 48), f"{layer}.params0_values.0": torch.ones(2, 48)}, tmp_path / "l"
    )
    with pytest.raises(CheckpointError, match="a linearised adapter"):
        read_checkpoint(tmp_path / "l", Target(SMALL, tower))


@pytest.mark.parametrize("writer", WRITERS)
def test_all_faults_of_a_file_are_in_one_error(writer: str, tower: State, tmp_path: Path) -> None:
    state = prefixed({name: tensor.clone() for name, tensor in tower.items()}, "visual.")
    del state["visual.ln_pre.bias"], state["visual.transformer.resblocks.1.attn.out_proj.weight"]
    state["visual.proj"] = torch.ones(20, 48)
    state["visual.ln_post.bias"] = torch.ones(7)
    state["visual.ln_post.weight"] = torch.arange(48)
    state["visual.transformer.resblocks.3.ln_1.weight"] = torch.ones(48)
    state["head.weight"] = torch.ones(2)
    state["visual.class_embedding"][3] = float("inf")
    state["visual.transformer.resblocks.0.mlp.c_fc.bias"][:4] = float("nan")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(WRITERS[writer](state, tmp_path / "w"), Target(SMALL))
    for said in (
        "missing visual.ln_pre.bias, visual.transformer.resblocks.1.attn.out_proj.weight",
        "visual.proj [20, 48] for [48, 20]",
        "visual.ln_post.bias [7] for [48]",
        "visual.ln_post.weight stored as torch.int64",
        "visual.class_embedding (1 times)",
        "visual.transformer.resblocks.0.mlp.c_fc.bias (4 times)",
    ):
        assert said in str(caught.value)
    unexpected = re.search(r"unexpected ([^;]*);", str(caught.value))
    assert unexpected
    assert set(unexpected[1].split(", ")) == {"head.weight", "visual.transformer.resblocks.3.ln_1.weight"}


def test_all_faults_of_a_transformers_file_bear_the_files_own_names(tower: State, tmp_path: Path) -> None:
    hugging_face("CLIPVisionModelWithProjection").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if name.endswith("layers.1.self_attn.k_proj.weight"))
    other = name.replace("k_proj", "v_proj")
    del state[name]
    state[other] = torch.ones(3, 48)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path, Target(SMALL, tower))
    assert f"missing {name};" in str(caught.value)
    assert f"{other} [3, 48] for [48, 48]" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_a_fine_tuned_model_what_is_measured(
    dtype: torch.dtype, tower: State, tuned: State, tmp_path: Path
) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in tuned.items()}, tmp_path / "w")
    error = sum(float((tuned[n].to(dtype).double() - tuned[n].double()).square().sum()) for n in tuned) ** 0.5
    vector = sum(float((tuned[n] - tower[n]).double().square().sum()) for n in tuned) ** 0.5
    with pytest.raises(CheckpointError, match=r"a fine-tuned model in half precision .* has lost [\d.]+%"):
        read_checkpoint(tmp_path / "w", Target(SMALL, tower))
    read = read_checkpoint(tmp_path / "w", Target(SMALL, tower, lossy=True))
    assert read.loss == pytest.approx(error / vector, rel=0.05)
    assert read.stored_as == {str(dtype).removeprefix("torch."): len(tower)}
    assert read_checkpoint(tmp_path / "w", Target(SMALL)).loss == 0  # the pre-trained model is what its file says


def test_doubles_are_taken_and_lose_nothing_that_counts(tuned: State, tower: State, tmp_path: Path) -> None:
    save_file({name: tensor.double() for name, tensor in tuned.items()}, tmp_path / "w")
    read = read_checkpoint(tmp_path / "w", Target(SMALL, tower))
    assert read.loss == 0
    assert all(torch.equal(read.state[name], tuned[name]) for name in tuned)


def test_only_a_format_without_a_projection_borrows_it(tower: State, tmp_path: Path) -> None:
    save_file({name: tensor for name, tensor in tower.items() if name != "proj"}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="missing proj;"):
        read_checkpoint(tmp_path / "w", Target(SMALL, tower))
    hugging_face("CLIPModel").save_pretrained(tmp_path / "clip")
    state = load_file(tmp_path / "clip/model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "clip/model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing visual_projection\.weight;"):
        read_checkpoint(tmp_path / "clip", Target(SMALL, tower))


def test_a_base_of_another_architecture_is_refused_before_the_file_is_read(tower: State, tmp_path: Path) -> None:
    other = {**tower, "conv1.weight": torch.ones(48, 3, 4, 4)}
    with pytest.raises(CheckpointError, match=r"the pre-trained model: got conv1\.weight of shape"):
        read_checkpoint(tmp_path / "none", Target(SMALL, other))


def test_names_without_end_are_refused(tmp_path: Path) -> None:
    for write in (save_file, torch.save):
        write({"x" * 5_000: torch.ones(1)}, tmp_path / "w")
        with pytest.raises(CheckpointError, match="names of more than 500 characters"):
            read_checkpoint(tmp_path / "w", Target(SMALL))


def test_two_towers_in_one_file_are_refused(tower: State, tmp_path: Path) -> None:
    torch.save({"model": prefixed(tower, "visual."), "ema": prefixed(tower, "visual.")}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"2 vision towers: ema\.visual\.\*, model\.visual\.\*"):
        read_checkpoint(tmp_path / "w", Target(SMALL))


def test_a_folder_gives_the_file_that_its_library_would_load_or_asks(tower: State, tmp_path: Path) -> None:
    save_file(tower, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path, Target(SMALL)).format == "open_clip"
    torch.save({"junk": torch.ones(1)}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"2 files of weights: a\.safetensors, optimizer\.pt"):
        read_checkpoint(tmp_path, Target(SMALL))
    (tmp_path / "a.safetensors").rename(tmp_path / "open_clip_model.safetensors")
    assert read_checkpoint(tmp_path, Target(SMALL)).format == "open_clip"
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="without weights"):
        read_checkpoint(tmp_path, Target(SMALL))


NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "a web page": (b"<!DOCTYPE html><html>", "a web page"),
    "anything": (b"GIF89a", "a file that begins with b'GIF89a'"),
    "JSON": (b"{}", "without a weight_map"),
}


@pytest.mark.parametrize("row", NO_WEIGHTS)
def test_what_is_no_weights_is_named(row: str, tmp_path: Path) -> None:
    content, said = NO_WEIGHTS[row]
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_checkpoint(tmp_path / "w", Target(SMALL))


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "shards"])
@pytest.mark.parametrize("share", [0.999, 0.6, 0.01])
def test_a_truncated_file_is_refused_as_such(writer: str, share: float, tower: State, tmp_path: Path) -> None:
    path = WRITERS[writer](tower, tmp_path / "w")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="complete"):
        read_checkpoint(path, Target(SMALL))


def test_a_number_changed_in_a_zip_is_noticed(tower: State, tmp_path: Path) -> None:
    torch.save(tower, tmp_path / "w")
    content = bytearray((tmp_path / "w").read_bytes())
    with zipfile.ZipFile(tmp_path / "w") as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size)
    content[info.header_offset + 2_000] ^= 0xFF
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CheckpointError, match="CRC"):
        read_checkpoint(tmp_path / "w", Target(SMALL))


def test_a_missing_shard_and_a_tensor_in_another_are_named(tower: State, tmp_path: Path) -> None:
    folder = sharded(tower, tmp_path / "w")
    index = json.loads((folder / "weights.index.json").read_text())
    index["weight_map"]["proj"] = (
        "part-0.safetensors" if index["weight_map"]["proj"][5] == "1" else "part-1.safetensors"
    )
    (folder / "weights.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"missing proj of part-\d.*unexpected proj of part-\d"):
        read_checkpoint(folder / "weights.index.json", Target(SMALL))
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="part-1"):
        read_checkpoint(folder / "weights.index.json", Target(SMALL))


def test_tables_have_their_rows() -> None:
    assert set(READERS) == {"linearised", "peft_lora", "transformers", "open_clip"}
    assert len(CONTAINERS) == 4


# ------------------------------------------------------------------------------------------------------ hostile files


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    """What a process noted that read all hostile files; their folder; and where it stood."""
    folder, stood = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("stood")
    for number, (write, _) in enumerate(hostile.HOSTILE.values()):
        write(folder / f"{number:02}")
    script = Path(hostile.__file__)
    done = subprocess.run([sys.executable, script, folder], cwd=stood, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), folder, stood


@pytest.mark.parametrize("row", hostile.HOSTILE)
def test_a_hostile_file_does_nothing_and_is_refused(row: str, watched: tuple[dict[str, Any], Path, Path]) -> None:
    found, folder, stood = watched
    name = f"{list(hostile.HOSTILE).index(row):02}"
    noted = found[name]
    assert hostile.HOSTILE[row][1] in noted["error"]
    assert "\x1b" not in noted["error"]
    assert len(noted["error"]) < 2_000
    assert not [event for event in noted["events"] if not event.startswith(f"open ['{folder / name}', 'r")]
    assert noted["mib"] < 500
    assert not list(stood.iterdir())


def test_the_hostile_call_is_live_where_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile.HOSTILE["a call"][0](tmp_path / "w")
    with zipfile.ZipFile(tmp_path / "w") as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert (tmp_path / hostile.CANARY).exists()


def test_all_refused_names_of_a_file_are_in_one_error(watched: tuple[dict[str, Any], Path, Path]) -> None:
    error = watched[0][f"{list(hostile.HOSTILE).index('many names'):02}"]["error"]
    assert "builtins.eval, builtins.getattr, os.system, runpy.run_path, subprocess.Popen" in error


# ---------------------------------------------------------------------------------------------------------- full size


@pytest.mark.slow
def test_a_full_vit_b_32_of_transformers_has_the_152_layers_and_the_same_features(tmp_path: Path) -> None:
    architecture = open_clip_architecture("ViT-B-32-quickgelu")
    model = hugging_face("CLIPVisionModelWithProjection", architecture)
    model.save_pretrained(tmp_path)
    read: Read = read_checkpoint(tmp_path, Target(architecture))
    assert len(read.state) == 152
    assert sum(tensor.numel() for tensor in read.state.values()) == 87_849_216
    expected = its_features("CLIPVisionModelWithProjection", model, {}, images(architecture))
    assert torch.allclose(features(read.state, architecture), expected, atol=1e-4)
