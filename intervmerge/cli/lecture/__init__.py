"""Commands that evaluate merging itself: task arithmetic, its coefficients, the general model."""

from intervmerge.cli.lecture import arithmetic, coefficients

COMMANDS = {"arithmetic": arithmetic, "coefficients": coefficients}
"""Sub-command to its module, as in main.py."""
