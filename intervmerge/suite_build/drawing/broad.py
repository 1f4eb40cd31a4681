"""The broad classes of the pre-training: other alphabets, signs, other flags, food, faces and vehicles.

They are kin of the tasks' classes, as web images are of the benchmarks'; none of them is a class of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from intervmerge.suite_build.drawing import pictures
from intervmerge.suite_build.drawing.glyphs import glyph
from intervmerge.suite_build.drawing.photos import Pixels
from intervmerge.suite_build.drawing.sources import flag_folder
from intervmerge.suite_build.drawing.tasks import TASKS, Labels

ALPHABETS = (
    "ΓΔΘΛΞΠΣΦΨΩ",
    "αβγδεζηθλμξπρσφψω",
    "abdefghijklmnqrty",
    "бвгджзийлптфцчшщъыьэюя",
    "&@#$%?!§£+=*<>{[(~",
)
OTHER_FLAG_CODES = (
    "ad ae ag al am ao az ba bb bd bf bg bh bi bj bo bs bt bw by bz cd cf cg ci cm cr cv cy dj dm do dz "
    "ec ee er fj ga gd ge gh gm gn gq gt gw gy hn hr ht hu iq jo kg kh ki km kn kp kw kz la lb lc lk "
    "lr ls lt lv ly ma md me mg mk ml mm mn mr mt mu mv mw mz na ne ng ni om pa pe pg ph pl pw py qa"
)
OTHER_FLAGS = tuple(OTHER_FLAG_CODES.split())
FOOD = "🍇🍈🍉🍊🍋🍌🍍🍎🍐🍑🍒🍓🍅🍆🥑🥦🌽🥕🥔🥐🍞🥖🥨🧀🍖🍗🍔🍟🍕🌭🌮🍳🍿🍱🍙🍜🍣🍦🍩🍪🎂🍫🍭🍯"
FACES = "😀😂😉😊😍😘😜😎😏😐😴😷😵😱😡😭😇👿💀👻👽🤖💩🎃👶👧👦👩👨👴👵👮👷💂🎅👸"
VEHICLES = "🚂🚗🚌🚑🚒🚓🚚🚜🚲🛵🚀🚁⛵🚢🚤🎈🏠⌚💡📷🔑🔨🎸🎺⚽🏀🌲🌵🌻🍁"

BROAD_IMAGES = 64
"""Images a broad class."""

REPEATS = 48
"""How often a class of a task comes up in an epoch: its few images, again and again."""


@dataclass(frozen=True)
class BroadSet:
    """What the pre-training sees: images [n, 32, 32, 3], their classes, and where the tasks' classes begin."""

    images: Pixels
    labels: Labels
    first_class: dict[str, int]
    classes: int


def broad_images(random: np.random.Generator) -> Sequence[Pixels]:
    """Images [BROAD_IMAGES, 32, 32, 3] of every broad class."""

    def many(draw: Callable[[], Pixels]) -> Pixels:
        return np.stack([draw() for _ in range(BROAD_IMAGES)])

    letters = [many(partial(glyph, c, a, "train", 0.4, random)) for a in ALPHABETS for c in a]
    flags = [
        many(partial(pictures.scene, pictures.flag(code, flag_folder()), "train", random, mirror=False))
        for code in OTHER_FLAGS
    ]
    emoji = [
        many(partial(pictures.scene, pictures.emoji(c), "train", random, mirror=True)) for c in FOOD + FACES + VEHICLES
    ]
    return letters + flags + emoji


def broad_set(random: np.random.Generator) -> BroadSet:
    """The broad classes with many images, then every task's classes with a few, repeated."""
    images = list(broad_images(random))
    labels = [np.full(len(block), label) for label, block in enumerate(images)]
    first_class, classes = {}, len(images)
    for task in TASKS:
        few = np.repeat(np.arange(len(task.classes)), task.broad_images)
        repeats = REPEATS // task.broad_images
        images.append(np.repeat(task.draw(few, "train", random), repeats, axis=0))
        labels.append(np.repeat(classes + few, repeats))
        first_class[task.name], classes = classes, classes + len(task.classes)
    return BroadSet(np.concatenate(images), np.concatenate(labels), first_class, classes)
