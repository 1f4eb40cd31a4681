"""Commands that evaluate merging itself: task arithmetic, its coefficients, the general model, who disturbs whom."""

from intervmerge.cli.lecture import arithmetic, cka, coefficients, interference, joint

COMMANDS = {
    "arithmetic": arithmetic,
    "coefficients": coefficients,
    "joint": joint,
    "interference": interference,
    "cka": cka,
}
"""Sub-command to its module, as in main.py."""
