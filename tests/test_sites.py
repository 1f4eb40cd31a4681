"""Laws of sites: which representation is edited, that both engines agree on it, and that all else follows by itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from intervmerge.bases.merged import merge
from intervmerge.engines.batches import BLOCK, Batch, sizes
from intervmerge.engines.caches import NO_CACHES
from intervmerge.engines.exact import Engine, edit_of, features
from intervmerge.errors import CheckpointError, ConfigError
from intervmerge.interventions import (
    SITES,
    InterventionConfig,
    Interventions,
    Placement,
    count_extra_params,
    extra_params,
    place,
)
from intervmerge.interventions.files import FORMAT, KEY
from intervmerge.interventions.sites import FEATURE, REPRESENTATIONS
from intervmerge.records.words import in_words
from intervmerge.space.sampling import Sampling
from intervmerge.space.space import read_space
from intervmerge.suites.suite import Suite
from intervmerge.trial import unfinished
from intervmerge.trial.bench import Bench
from intervmerge.trial.config import TrainingConfig, TrialConfig
from intervmerge.trial.run import run_trial

BLOCKS = 5
SHAPE: dict[str, Any] = {"width": 48, "num_blocks": BLOCKS, "grid": 3, "features": 32}
IN_BLOCKS = [name for name, row in SITES.items() if row.block]


def placed(**settings: Any) -> Placement:
    return place(InterventionConfig(**settings), **SHAPE)


def moved(bench: Bench, **config: Any) -> Interventions:
    """Interventions whose Δ is far from zero."""
    interventions = bench.start(bench.place(TrialConfig(intervention=InterventionConfig(**config))), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in interventions.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return interventions


def some_images(suite: Suite, count: int = BLOCK) -> Batch:
    starts = torch.tensor([0, *sizes(suite, "adapt").values()][:-1]).cumsum(0)
    return Batch("adapt", starts[:, None] + torch.arange(count))


def check_equal(one: Engine, other: Engine, interventions: Interventions, batch: Batch) -> None:
    with torch.no_grad():
        ends = [features(engine, interventions, batch) for engine in (one, other)]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-3)


def far_apart(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-3)


# ---- representations


def test_an_encoder_shows_every_representation_of_every_block_and_the_feature(bench: Bench) -> None:
    shown: list[tuple[str, int, tuple[int, ...]]] = []

    def watch(site: str, block: int, z: Tensor) -> Tensor:
        shown.append((site, block, tuple(z.shape[1:])))
        return z

    shape, batch = bench.base.suite.architecture, some_images(bench.base.suite, 2)
    Bench(bench.base, "cpu", plan=NO_CACHES).exact.walk(batch, watch, 0)
    inner = [name for name in REPRESENTATIONS if name != FEATURE]
    assert [(site, block) for site, block, _ in shown] == [
        *((site, block) for block in range(shape.blocks) for site in inner),
        (FEATURE, shape.blocks),
    ]
    for site, block, z in shown:
        tokens = 1 if block == shape.blocks or (block == shape.blocks - 1 and site != "ln_1") else shape.tokens
        assert z == (tokens, shape.features if site == FEATURE else shape.width)


def test_every_site_is_made_of_representations() -> None:
    for name, site in SITES.items():
        assert site.block in (None, *REPRESENTATIONS)
        assert site.block or site.feature
        assert bool(site.words) == (name != "attention")


@pytest.mark.parametrize("site", SITES)
def test_a_site_edits_what_it_names_and_an_edit_reaches_the_feature(bench: Bench, uncached: Bench, site: str) -> None:
    interventions, batch = moved(bench, site=site, blocks=[2]), some_images(bench.base.suite)
    edit, edited = edit_of(interventions, batch.index.shape), []

    def watch(name: str, block: int, z: Tensor) -> Tensor:
        after = edit(name, block, z)
        if not torch.equal(after, z):
            edited.append((name, block))
        return after

    with torch.no_grad():
        after = uncached.exact.walk(batch, watch, 0)
        before = uncached.exact.walk(batch, None, 0)
    row = SITES[site]
    assert edited == [*([(row.block, 2)] if row.block else []), *([(FEATURE, BLOCKS)] if row.feature else [])]
    assert far_apart(after, before)


@pytest.mark.parametrize(("one", "other"), [("attention", "residual"), ("mlp", "block")])
def test_a_constant_is_the_same_on_either_side_of_a_residual_add(
    bench: Bench, uncached: Bench, one: str, other: str
) -> None:
    batch = some_images(bench.base.suite)
    settings = {"formula": "lobireft", "blocks": [0, 3], "token": "all"}
    ends = [features(uncached.exact, moved(bench, site=site, **settings), batch) for site in (one, other)]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-3)


def test_what_depends_on_z_is_not(bench: Bench, uncached: Bench) -> None:
    batch = some_images(bench.base.suite)
    one, other = (features(uncached.exact, moved(bench, site=site), batch) for site in ("attention", "residual"))
    assert far_apart(one, other)


# ---- engines

EXACT_IN = [(name, BLOCKS - last) for name in SITES for last in range(1, SITES[name].exact_last + 1)]


@pytest.mark.parametrize(("site", "block"), EXACT_IN)
def test_the_stream_equals_the_exact_engine_in_the_last_blocks_of_every_site(
    bench: Bench, uncached: Bench, site: str, block: int
) -> None:
    interventions = moved(bench, site=site, blocks=[block], formula="nodireft", rank=2)
    check_equal(bench.stream, uncached.exact, interventions, some_images(bench.base.suite))


@pytest.mark.parametrize("site", IN_BLOCKS)
def test_one_block_earlier_the_stream_is_an_approximation(bench: Bench, uncached: Bench, site: str) -> None:
    interventions = moved(bench, site=site, blocks=[BLOCKS - SITES[site].exact_last - 1])
    batch = some_images(bench.base.suite)
    one, other = (features(engine, interventions, batch) for engine in (bench.stream, uncached.exact))
    assert not torch.allclose(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("token", ["class", "all"])
@pytest.mark.parametrize("site", SITES)
def test_caches_change_nothing_at_any_site(bench: Bench, uncached: Bench, site: str, token: str) -> None:
    interventions = moved(bench, site=site, token=token, blocks=[1, 4])
    check_equal(bench.exact, uncached.exact, interventions, some_images(bench.base.suite))


@pytest.mark.parametrize("site", SITES)
def test_a_task_trained_alone_ends_where_it_ends_among_others_at_every_site(
    odd: Suite, bench: Bench, site: str
) -> None:
    training = TrainingConfig(steps=6, batch=8, learning_rate=1e-3)
    config = TrialConfig(intervention=InterventionConfig(site=site, blocks="last_2"), training=training)
    among = run_trial(config, bench).interventions.state_by_task()
    base = replace(merge(odd.only(["green"]), "task_arithmetic"), state=bench.base.state)
    alone = run_trial(config, Bench(base, "cpu")).interventions.state_by_task()
    for name, tensor in alone["green"].items():
        torch.testing.assert_close(among["green"][name], tensor, atol=1e-5, rtol=1e-4)


def test_consreft_starts_from_the_moments_of_its_own_site(bench: Bench) -> None:
    config = InterventionConfig(formula="consreft", rank=2, site="ln_2", blocks=[1])
    interventions = bench.start(bench.place(TrialConfig(intervention=config)), 0)
    total = torch.zeros(())
    for row, size in enumerate(sizes(bench.base.suite, "adapt").values()):
        start = sum(list(sizes(bench.base.suite, "adapt").values())[:row])
        seen: list[Tensor] = []

        def watch(site: str, block: int, z: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.extend([z[:, :1]] if (site, block) == ("ln_2", 1) else [])
            return z

        with torch.no_grad():
            bench.exact.walk(Batch("adapt", torch.arange(start, start + size)[None]), watch, 0)
            total = total + interventions(1, seen[0][None], [row], "ln_2").mean((0, 1)).abs().max()
    assert float(total) < 1e-4  # the mean stays where it was


# ---- placements


def test_auto_is_where_the_source_of_the_formula_puts_it() -> None:
    assert placed(formula="noreft").site == placed(formula="noreft", site="attention").site == "attention"
    assert placed(formula="surgery") == placed(formula="surgery", site="feature")
    assert placed(formula="surgery", site="attention").blocks == tuple(range(BLOCKS))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("formula", ["noreft", "lobireft", "surgery"])
def test_placing_a_canonical_configuration_again_changes_nothing_at_any_site(site: str, formula: str) -> None:
    for settings in ({}, {"blocks": "every_2", "token": "all"}, {"blocks": [BLOCKS - 1], "start": "paper"}):
        placement = placed(site=site, formula=formula, **settings)
        assert place(placement.config, **SHAPE) == placement
        again = InterventionConfig(**json.loads(json.dumps(asdict(placement.config))))
        assert place(again, **SHAPE) == placement


def test_at_the_feature_blocks_and_tokens_play_no_part() -> None:
    one = placed(site="feature", blocks="first_2", token="patches", slice_shift=3)
    assert one == placed(site="feature")
    assert (one.blocks, one.token, one.slice_width, one.width_in(BLOCKS)) == ((BLOCKS,), "class", 32, 32)
    assert placed(site="feature", slice_width="1/4", slice_start=30).indices(BLOCKS) == (30, 31, 0, 1, 2, 3, 4, 5)


def test_patches_of_the_last_block_are_dropped_but_where_they_are_yet_to_be_attended_to() -> None:
    for site in IN_BLOCKS:
        last = placed(site=site, token="all", blocks=[BLOCKS - 1])
        assert last.token == ("all" if SITES[site].patches_count else "class")
    with pytest.raises(ConfigError, match="leaves nothing to edit"):
        placed(site="mlp", token="patches", blocks=[BLOCKS - 1])


def test_patches_of_the_last_ln_1_reach_the_feature(bench: Bench, uncached: Bench) -> None:
    batch = some_images(bench.base.suite)
    interventions = moved(bench, site="ln_1", token="patches", blocks=[BLOCKS - 1])
    assert far_apart(features(uncached.exact, interventions, batch), features(uncached.exact, None, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"site": "neck"}, "site: got 'neck'"),
        ({"site": "feature", "slice_width": 33}, "slice_width: got 33"),
        ({"site": "block_and_feature", "slice_width": 8}, "representations of several widths"),
        ({"site": "feature", "blocks": [BLOCKS + 1]}, "is no block of this model"),
        ({"site": "mlp", "blocks": [BLOCKS]}, "is no block of this model"),
        ({"site": "feature", "formula": "surgery", "rank": 17}, "1 to 16"),
    ],
)
def test_what_a_site_cannot_hold_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        placed(**settings)


def test_the_feature_of_a_model_of_unknown_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="the feature's width is not known"):
        count_extra_params(InterventionConfig(formula="surgery"), width=768, num_blocks=12, num_tasks=8)


# ---- counts, files, words, spaces


@pytest.mark.parametrize("site", SITES)
def test_the_count_is_the_number_of_elements_kept_at_every_site(bench: Bench, site: str) -> None:
    interventions = moved(bench, site=site, rank=2, blocks=[0, 2])
    kept = sum(tensor.numel() for tensor in interventions.kept(0).values())
    assert kept == extra_params(interventions.rows[0][1])


@pytest.mark.parametrize("site", SITES)
def test_interventions_at_every_site_are_read_as_they_were_written(bench: Bench, site: str, tmp_path: Path) -> None:
    interventions, batch = moved(bench, site=site, rank=2, blocks=[0, 2]), some_images(bench.base.suite, 4)
    interventions.save(tmp_path / "file.safetensors")
    loaded = Interventions.load(tmp_path / "file.safetensors")
    assert loaded.rows == interventions.rows
    with torch.no_grad():
        one, other = (features(bench.exact, both, batch) for both in (interventions, loaded))
    assert torch.equal(one, other)


def test_a_file_without_sites_is_of_the_attention_output(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    placement = placed(blocks=[1])
    path = tmp_path / "file.safetensors"
    Interventions.start([("a", placement)], seed=0).save(path)
    with safe_open(path, framework="pt") as file:
        values, tensors = json.loads(file.metadata()[KEY]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert values["format"] == FORMAT
    values["format"] = 2
    for added in ("site", "features"):
        del values["placements"]["a"][added]
    save_file(tensors, path, {KEY: json.dumps(values)})
    assert Interventions.load(path).rows == (("a", placement),)
    values["placements"]["a"]["site"] = "neck"
    save_file(tensors, path, {KEY: json.dumps(values)})
    with pytest.raises(CheckpointError, match="no site 'neck'"):
        Interventions.load(path)


def test_rows_of_different_sites_stand_side_by_side(bench: Bench, uncached: Bench) -> None:
    tasks = bench.base.suite.task_names
    settings = [{"site": "mlp", "blocks": [2]}, {"formula": "surgery", "rank": 2}, {"blocks": [0, 3], "token": "all"}]
    own = [moved(bench, **each) for each in settings]
    rows = [own[i].rows[i] for i in range(len(tasks))]
    together = Interventions(rows, [own[i].state(i) for i in range(len(tasks))])
    batch = some_images(bench.base.suite)
    with torch.no_grad():
        found = features(uncached.exact, together, batch)
        for i, single in enumerate(own):
            alone = features(uncached.exact, single, Batch("adapt", batch.index[i : i + 1]), [i])
            torch.testing.assert_close(found[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_words_say_the_site_where_it_does_not_go_without_saying() -> None:
    said = {site: in_words(asdict(placed(site=site).config), 48, BLOCKS) for site in SITES}
    assert said["attention"] == "noreft rank 1, all blocks, token class"
    assert said["feature"] == "noreft rank 1, at the feature, 32 elements from 0"
    assert said["mlp"] == "noreft rank 1, all blocks, at the mlp's output, token class"
    assert len(set(said.values())) == len(SITES)


def test_an_earlier_versions_words_of_a_configuration_are_those_without_sites_and_losses() -> None:
    written = str(TrialConfig(intervention=placed().config))
    assert "site='attention'" in written
    assert "loss='l1'" in written
    assert unfinished.as_before(written) == written.replace(", site='attention'", "").replace(", loss='l1'", "")
    other = str(TrialConfig(intervention=placed(site="mlp").config))
    assert "site='mlp'" in unfinished.as_before(other)


def test_a_space_chooses_among_sites_and_knows_what_they_cost(odd: Suite, tmp_path: Path) -> None:
    path = tmp_path / "sites.yaml"
    path.write_text(
        "intervention: {formula: {choices: [noreft, surgery]}, blocks: {choices: [all, middle_1]}, "
        "site: {choices: [auto, feature, mlp]}}\n"
    )
    sampling = Sampling(read_space(path), odd.architecture, 3)
    sampling.check()
    points = sampling.grid()
    assert points is not None
    different = {drawn.key: drawn for drawn, _ in points}
    assert len(different) == 8  # noreft at two sites of two block patterns; surgery at one; the feature has no blocks
    costs = {drawn.extra_params for drawn in different.values()}
    assert sampling.cost_range() == (min(costs), max(costs))
    assert {"intervention.site": "auto"}.items() <= sampling.priors()[0].items()


def test_a_space_with_an_unknown_site_is_refused(odd: Suite, tmp_path: Path) -> None:
    path = tmp_path / "sites.yaml"
    path.write_text("intervention:\n  site: {choices: [attention, neck]}\n")
    with pytest.raises(ConfigError, match=r"intervention\.site: got 'neck'"):
        Sampling(read_space(path), odd.architecture, 3).check()
