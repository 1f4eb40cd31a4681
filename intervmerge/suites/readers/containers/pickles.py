"""A pickle read as data: nothing that it names is imported, called or given an attribute.

A pickle is a program for a machine with a stack. Python's own machine does what the program says; this one notes it:
what would be looked up is a `Name`, what would be called a `Call`, and neither can do anything. So a hostile file is
no different from any other. Opcodes are parsed by the standard library's disassembler.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

MOST_STEPS = 1_000_000
"""Opcodes of one pickle; a whole CLIP module has some ten thousand."""
_KEYS = (str, int, float, bytes, type(None))
"""What may be a key. A tuple may not: the hash of one that is nested deep enough ends the process."""


class PickleError(Exception):
    """No pickle, a damaged one, or one that needs what a checkpoint never needs."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Persistent:
    """What is kept outside the pickle, such as a storage; `key` is whatever the pickle says of it."""

    key: object


@dataclass(eq=False)
class Call:
    """An object that a pickle would make: by calling `what` with `args`, then with a state, pairs and parts."""

    what: object
    args: object
    state: object = None
    pairs: dict[Any, Any] = field(default_factory=dict)
    parts: list[Any] = field(default_factory=list)


@dataclass
class Read:
    """One pickle, read: its value, every name in it, and every object kept outside."""

    value: object
    names: set[Name]
    persistent: list[Persistent]


def read_pickle(file: IO[bytes]) -> Read:
    """Read one pickle from where `file` stands, to the byte after its end.

    Raises:
        PickleError: it is none, is cut short, or has opcodes that no checkpoint needs.
    """
    machine = _Machine()
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if step >= MOST_STEPS:
                raise PickleError(f"more than {MOST_STEPS:,} opcodes")
            machine.run(opcode.name, argument)
        return Read(machine.stack.pop(), machine.names, machine.persistent)
    except PickleError:
        raise
    except Exception as error:  # whatever a damaged stream brings on: too few operands, no such memo, a bad number
        raise PickleError(f"damaged ({type(error).__name__})") from error


class _Machine:
    """The stack, the marks on it, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.names: set[Name] = set()
        self.persistent: list[Persistent] = []

    def run(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        else:
            raise PickleError(f"opcode {opcode}, which no checkpoint needs")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def remember(self, at: int) -> None:
        self.memo[at] = self.stack[-1]

    def name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("a name that is no text")
        self.names.add(found := Name(module, name))
        self.push(found)

    def keep_outside(self, key: object) -> None:
        self.persistent.append(found := Persistent(key))
        self.push(found)

    def set_pairs(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        pairs = target.pairs if isinstance(target, Call) else target
        if not isinstance(pairs, dict) or len(flat) % 2:
            raise PickleError("pairs for what is no mapping")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            pairs[key if isinstance(key, _KEYS) else f"<{type(key).__name__} {len(pairs)}>"] = value

    def add_parts(self, items: list[Any]) -> None:
        target = self.stack[-1]
        parts = target.parts if isinstance(target, Call) else target
        if not isinstance(parts, list):
            raise PickleError("parts for what is no list")
        parts.extend(items)

    def build(self) -> None:
        (state,) = self.last(1)
        if isinstance(target := self.stack[-1], Call):
            target.state = state
        else:
            raise PickleError("a state for what has none")

    def dictionary(self, flat: list[Any]) -> None:
        self.push({})
        self.set_pairs(flat)

    def instance(self, module: str, name: str) -> None:
        arguments = self.since_mark()
        self.name(module, name)
        self.made([self.stack.pop(), *arguments])

    def made(self, items: list[Any]) -> None:
        self.push(Call(items[0], tuple(items[1:])))


_VALUES = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BYTEARRAY8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    ]
)
"""Opcodes that push their argument."""
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **{name: lambda m, _: None for name in ("PROTO", "FRAME", "STOP")},
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.marks.pop() if m.marks and m.marks[-1] == len(m.stack) else m.last(1),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **{name: lambda m, _: m.push([]) for name in ("EMPTY_LIST", "EMPTY_SET")},
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    **{name: lambda m, _: m.push(m.since_mark()) for name in ("LIST", "FROZENSET")},
    "DICT": lambda m, _: m.dictionary(m.since_mark()),
    "APPEND": lambda m, _: m.add_parts(m.last(1)),
    **{name: lambda m, _: m.add_parts(m.since_mark()) for name in ("APPENDS", "ADDITEMS")},
    "SETITEM": lambda m, _: m.set_pairs(m.last(2)),
    "SETITEMS": lambda m, _: m.set_pairs(m.since_mark()),
    **{name: lambda m, at: m.push(m.memo[at]) for name in ("GET", "BINGET", "LONG_BINGET")},
    **{name: lambda m, at: m.remember(at) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GLOBAL": lambda m, both: m.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
    "BINPERSID": lambda m, _: m.keep_outside(m.stack.pop()),
    **{name: lambda m, _: m.push(Call(*m.last(2))) for name in ("REDUCE", "NEWOBJ")},
    "NEWOBJ_EX": lambda m, _: m.made(m.last(3)),
    "OBJ": lambda m, _: m.made(m.since_mark()),
    "INST": lambda m, both: m.instance(*both.split(" ", 1)),
    "BUILD": lambda m, _: m.build(),
}
"""What each opcode does to the stack."""
