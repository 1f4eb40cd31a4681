"""An open_clip vision tower, opened at its block boundaries.

A block is `x + z` followed by `x + mlp(ln_2(x))`, where `z = attention(ln_1(x))`, out_proj included, is what an
intervention edits (IntervMerge eq. 3.3). Every step shows an edit what it made. Blocks count from 0; the papers from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intervmerge.errors import CheckpointError, ConfigError, nearest
from intervmerge.merging import State
from intervmerge.settings import settings

Edit = Callable[[str, int, Tensor], Tensor]
"""From the name of a representation, a block and its z [images, tokens, width] to what stands in z's place.

The names are interventions' REPRESENTATIONS; the feature [images, 1, features] comes after the last block."""


def unedited(site: str, block: int, z: Tensor) -> Tensor:
    """The edit that changes nothing."""
    return z


CHUNK = 256
"""Images in one forward that trains nothing: enough to fill a GPU, few enough for its memory."""
CPU_TOKENS = 2_048
"""Tokens in one such forward on a CPU, at most: what a thread writes stays in its cache. On one thread an image
of mini8 takes 0.67 ms 64 at a time, 0.95 ms 256 at a time; one of ViT-B/32 91 ms 32 at a time, 96 ms 96 at a time."""
MOST = {"image_size": 4096, "patch_size": 4096, "width": 65_536, "blocks": 1_000, "heads": 65_536, "features": 65_536}
"""Of every size of a tower, at most: more is a slip, and would be built for hours before memory ends."""


@settings
class Architecture:
    """The shape of a CLIP vision transformer."""

    image_size: int
    """Side of the square image, pixels."""
    patch_size: int
    """Side of a square patch, pixels; must divide the image size."""
    width: int
    """Elements of a token inside the tower (k in the papers)."""
    blocks: int
    """Transformer blocks."""
    heads: int
    """Attention heads; must divide the width."""
    features: int
    """Elements of the image feature."""
    mlp_ratio: float = 4.0
    """Width of a block's hidden layer over the tower's width."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """`quick_gelu` for every tower that descends from OpenAI's weights."""

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                rule = "it is the shape of a tower that can be built"
                raise ConfigError(f"architecture.{name}", getattr(self, name), rule, f"1 to {most:,}")
        if not 1 <= self.width * self.mlp_ratio <= MOST["width"] * 4:
            rule = "a hidden layer has width x mlp_ratio elements"
            raise ConfigError("architecture.mlp_ratio", self.mlp_ratio, rule, "a positive number such as 4.0")
        for whole, part in (("image_size", "patch_size"), ("width", "heads")):
            size, divisor = getattr(self, whole), getattr(self, part)
            if size % divisor:
                rule = f"it must divide {whole} {size}"
                divisors = ", ".join(str(d) for d in range(1, size + 1) if size % d == 0)
                raise ConfigError(f"architecture.{part}", divisor, rule, divisors)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens of an image: the class token, then the patches row by row."""
        return self.grid**2 + 1


def open_clip_architecture(name: str) -> Architecture:
    """The vision tower of one of open_clip's models, such as `ViT-B-32-quickgelu`; no weights are loaded."""
    import open_clip

    if name not in open_clip.list_models():  # its own look-up would follow schemes, to the network too
        raise ConfigError(
            "architecture", repr(name), "open_clip has no such model", nearest(name, open_clip.list_models())
        )
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"]
    plain = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
    if not isinstance(vision["layers"], int) or not set(vision) <= plain:
        rule = f"its tower must be a plain vision transformer, but sets {sorted(set(vision) - plain) or 'stages'}"
        raise ConfigError("architecture", repr(name), rule, "a model such as ViT-B-32-quickgelu or ViT-L-14-quickgelu")
    return Architecture(
        image_size=vision.get("image_size", 224),
        patch_size=vision["patch_size"],
        width=vision["width"],
        blocks=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        features=config["embed_dim"],
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        activation="quick_gelu" if config.get("quick_gelu") else "gelu",
    )


class Encoder(nn.Module):
    """A vision tower; `tower` is open_clip's own module, so that parameter names are the field's.

    Its steps, `embed`, then `attend` and `finish` for each block, then `project`, are what the engines walk.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, VisionTransformer

        self.architecture = architecture
        self.tower = VisionTransformer(
            image_size=architecture.image_size,
            patch_size=architecture.patch_size,
            width=architecture.width,
            layers=architecture.blocks,
            heads=architecture.heads,
            mlp_ratio=architecture.mlp_ratio,
            output_dim=architecture.features,
            act_layer=QuickGELU if architecture.activation == "quick_gelu" else nn.GELU,
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return cast(Tensor, self.tower.proj).device

    @property
    def at_once(self) -> int:
        """Images in one forward that trains nothing, quickest where the encoder is; a power of two, at most CHUNK."""
        if self.device.type != "cpu":
            return CHUNK
        fitting = max(1, CPU_TOKENS // self.architecture.tokens)
        return int(min(CHUNK, 2 ** (fitting.bit_length() - 1)))

    def load(self, state: State, where: object = "weights", *, copy: bool = True) -> Encoder:
        """Take `state` as the tower's weights and freeze it; names and shapes must be the tower's own.

        Args:
            state: weights by layer.
            where: named in errors.
            copy: without, the tower's weights are the given tensors themselves, perhaps shared: never train it then.

        Raises:
            CheckpointError: names are missing or unexpected, or shapes differ.
        """
        check_state(state, self.tower.state_dict(), where)
        self.tower.load_state_dict(dict(state), assign=not copy)
        return self.eval().requires_grad_(False)

    def block(self, block: int) -> Any:
        """open_clip's own module of a block."""
        return cast(Any, self.tower.transformer.resblocks)[block]

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [images, 3, size, size] to the tokens that enter block 0 [images, tokens, width]."""
        tower = self.tower
        patches = tower.conv1(images).flatten(2).transpose(1, 2)
        first = tower.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        return cast(
            Tensor,
            tower.ln_pre(torch.cat([first, patches], dim=1) + tower.positional_embedding.to(patches.dtype)),
        )

    def attend(self, block: int, tokens: Tensor, class_only: bool = False, edit: Edit = unedited) -> Tensor:
        """z of a block [images, tokens, width]: its attention output, out_proj included, before the residual add.

        With `class_only` just the class token asks, of all tokens: [images, 1, width].
        """
        module = self.block(block)
        normed = edit("ln_1", block, module.ln_1(tokens))
        attn, width = module.attn, self.architecture.width
        if class_only:
            query = F.linear(normed[:, :1], attn.in_proj_weight[:width], attn.in_proj_bias[:width])
            key, value = F.linear(normed, attn.in_proj_weight[width:], attn.in_proj_bias[width:]).chunk(2, dim=-1)
        else:
            query, key, value = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (self._by_head(tokens) for tokens in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return edit("attention", block, attn.out_proj(mixed.transpose(1, 2).flatten(2)))

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[images, tokens, width] to [images, heads, tokens, width / heads]."""
        return tokens.view(*tokens.shape[:2], self.architecture.heads, -1).transpose(1, 2)

    def finish(self, block: int, tokens: Tensor, edit: Edit = unedited) -> Tensor:
        """The rest of a block, x + mlp(ln_2(x)), for x [images, any tokens, width]."""
        module = self.block(block)
        tokens = edit("residual", block, tokens)
        hidden = module.mlp(edit("ln_2", block, module.ln_2(tokens)))
        return edit("block", block, tokens + edit("mlp", block, hidden))

    def project(self, class_token: Tensor, edit: Edit = unedited) -> Tensor:
        """The class token after the last block [images, width] to the un-normalised feature [images, features]."""
        feature: Tensor = self.tower.ln_post(class_token) @ self.tower.proj
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))  # of whatever autocast made of it
        return edit("feature", self.architecture.blocks, feature.unsqueeze(1)).squeeze(1)

    def run(self, tokens: Tensor, edit: Edit | None = None, first: int = 0) -> Tensor:
        """Tokens that enter block `first` [images, tokens, width] to un-normalised features [images, features].

        In the last block only the class token is computed, as nothing else reaches the feature: there `edit` gets
        z of [images, 1, width], but for ln_1, which is of all tokens.

        Args:
            tokens: what `embed` gave, or what the blocks before `first` made of it.
            edit: called with each representation; None changes nothing.
            first: the block to begin with; past the last, only the projection is left.
        """
        edit = edit or unedited
        for block in range(first, self.architecture.blocks):
            tokens = self.step(block, tokens, edit)
        return self.project(tokens[:, 0], edit)

    def step(self, block: int, tokens: Tensor, edit: Edit = unedited) -> Tensor:
        """One whole block; of the last, the class token alone, [images, 1, width], as nothing else is asked for."""
        z = self.attend(block, tokens, class_only=block == self.architecture.blocks - 1, edit=edit)
        return self.finish(block, tokens[:, : z.shape[1]] + z, edit)

    def boundaries(self, tokens: Tensor, edit: Edit = unedited) -> Iterator[Tensor]:
        """From the tokens that enter block 0 [images, tokens, width], what enters each block, and what leaves the last.

        The last item is the class token alone [images, 1, width], as nothing else reaches the feature.
        """
        for block in range(self.architecture.blocks):
            yield tokens
            tokens = self.step(block, tokens, edit)
        yield tokens

    def features(self, images: Tensor) -> Tensor:
        """Normalised images [images, 3, size, size] to un-normalised features [images, features]."""
        return self.run(self.embed(images))

    forward = features


def check_state(state: State, expected: State, where: object) -> None:
    """Refuse weights whose names or shapes are not those of `expected`, or that are not finite.

    Raises:
        CheckpointError: with all differences in one message.
    """
    missing, unexpected = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unexpected:
        got = f"missing {missing[:5]}, unexpected {unexpected[:5]}"
        raise CheckpointError(where, got, "layers must be those of the architecture", f"{len(expected)} named layers")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            got, allowed = f"{name} of shape {list(tensor.shape)}", str(list(expected[name].shape))
            raise CheckpointError(where, got, "shapes must be those of the pre-trained model", allowed)
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                where, f"{bad} NaN or infinite values in {name}", "weights are finite", "finite values"
            )
