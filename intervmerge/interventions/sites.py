"""The table of sites: which representation z is edited, and what that means for tokens, engines and words.

An encoder shows its representations by name (see REPRESENTATIONS); a site is one of them in every chosen block, or the
final feature, or both. The feature comes after the last block: it has that number, as if it were one more block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FEATURE = "feature"
"""The representation after the last block, as wide as the feature; all others are as wide as a token."""

REPRESENTATIONS: Mapping[str, str] = MappingProxyType(
    {
        "ln_1": "ln_1(x), of which the attention makes queries, keys and values",
        "attention": "the attention output, out_proj included, before the residual add",
        "residual": "x + attention(ln_1(x)), after the first residual add",
        "ln_2": "ln_2 of that, which enters the hidden layer",
        "mlp": "what the hidden layer gives, before the second residual add",
        "block": "what leaves the block, after the second residual add; the authors' code calls this site mlp",
        FEATURE: "the un-normalised image feature, which the head sees",
    }
)
"""What an encoder shows of a block, in order, and after the last; read-only."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A row of SITES."""

    block: str | None
    """The representation that is edited in every chosen block; None for none."""
    feature: bool = False
    """Whether the final feature is edited (too)."""
    words: str = ""
    """Of a configuration; empty for the one that goes without saying."""
    patches_count: bool = False
    """Whether an edit of patches in the last block reaches the feature: they are yet to be attended to."""
    exact_last: int = 2
    """The class stream is exact where the first intervened block is one of so many last ones: patches attend to an
    edited class token from the block after, and the class token to those patches one later."""

    def shown_in(self, block: int, num_blocks: int) -> str:
        """The representation that is edited in a block, or after the last."""
        assert self.block is not None or block == num_blocks, "this site is in no block"
        return FEATURE if block == num_blocks else str(self.block)


SITES: Mapping[str, Site] = MappingProxyType(
    {
        "attention": Site(block="attention"),
        "ln_1": Site(block="ln_1", words="at ln_1", patches_count=True, exact_last=1),
        "residual": Site(block="residual", words="at the residual"),
        "ln_2": Site(block="ln_2", words="at ln_2"),
        "mlp": Site(block="mlp", words="at the mlp's output"),
        "block": Site(block="block", words="at the block's output"),
        "feature": Site(block=None, feature=True, words="at the feature"),
        "block_and_feature": Site(block="block", feature=True, words="at the block's output and the feature"),
    }
)
"""Site by name; read-only. IntervMerge edits the attention output, Surgery the feature, SurgeryV2 the last of these."""
AUTO = "auto"
"""Of `site`: where the source of the formula puts it."""
