"""Commands that evaluate merging itself: task arithmetic, its coefficients, the general model."""

from intervmerge.cli.lecture import arithmetic, coefficients, joint

COMMANDS = {"arithmetic": arithmetic, "coefficients": coefficients, "joint": joint}
"""Sub-command to its module, as in main.py."""
