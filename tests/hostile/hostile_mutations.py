"""Mutations of a file: damaged bytes, JSON and YAML with unexpected values."""

import json
import random
from collections.abc import Callable
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, -(2**63), 10**18, 1e-300, 1e308, -1e308, 0.5,
    float("nan"), float("inf"), "", " ", "x" * 5000, "\ud800", "\x1b[31mred", "a\nb", "a\0b", "../../x", "/",
    "nan", "1e400",
    "<script>alert(1)</script>", "{{ 7 * 7 }}", [], {}, [[]], [None], [1, 2, 3, 4], {"": ""}, {"a": [{}]}, ["x"] * 300,
)  # fmt: skip
"""Replacements for a value."""

DEEP = "[" * 100_000
DIGITS = "9" * 400

YAML_LINES = (
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
    "g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nsize: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n",
    "a: &a {k: v}\nb: &b {<<: [*a,*a,*a]}\nsize: {<<: [*b,*b,*b]}\n",
    "size: &a [*a]\n", "size: !!int x\n", "size: !!timestamp x\n", "size: !!binary '*'\n", "size: !!float x\n",
    "size: 2020-13-45\n", "size: 2020-01-01\n", "size: .nan\n", "minutes: .inf\n", "lr: -.inf\n", "size: 1e400\n",
    "size: 0x" + "f" * 4000 + "\n", "size: " + "1:" * 3000 + "1\n", "size: 1_0\n", "? [1, 2]\n: 3\n", "size: *nobody\n",
    "!!python/object/apply:os.system ['echo']\n", "data: !!python/name:os.system\n", "%YAML 9.9\n---\n",
    "---\na: 1\n---\nb: 2\n",
    "\tsize: 3\n", "size: '\\", 'size: "\\ud800"\n', "size: |\n" + " x" * 1000, "size: " + "[" * 3000,
    "size: " + "{a: " * 3000,
    "1: 2\n", "null: 3\n", "[1]: 2\n", "size:\nsize:\n", "=: 3\n", "size: !!set {a, b}\n", "size: !!omap [a: 1]\n",
)  # fmt: skip
"""Put into a YAML file."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with some of its bytes changed."""
    if not data:
        return b"\0"
    place = rng.randrange(len(data))
    match rng.randrange(8):
        case 0:
            return data[:place]
        case 1:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 3, 30))):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 2:
            return data[:place] + rng.randbytes(rng.choice((1, 8, 200))) + data[place:]
        case 3:
            return data[:place] + data[place + rng.choice((1, 4, 100)) :]
        case 4:
            return data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]
        case 5:
            return data[:place] + b"\xff" * 4 + data[place + 4 :]
        case 6:
            other = rng.randrange(len(data))
            return data[:place] + data[other : other + 200] + data[place:]
        case _:
            return rng.choice((b"", b"\0" * 1000, b"\xef\xbb\xbf" + data, data * 2, rng.randbytes(500), data[::-1]))


def damaged_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON document, or lines of them, with a value exchanged, removed or duplicated, and sometimes damaged text."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    text = data.decode()
    if rng.random() < 0.1:
        numbers = [place for place, c in enumerate(text) if c.isdigit()]
        place = rng.choice(numbers or [0])
        return (text[:place] + rng.choice((DIGITS, DEEP, "1e999", "-" + DIGITS, "NaN")) + text[place + 1 :]).encode()
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines()]
    number = rng.randrange(len(documents))
    for _ in range(rng.choice((1, 1, 1, 3))):
        documents[number] = changed(documents[number], rng)
    return "\n".join(map(json.dumps, documents)).encode()


def damaged_yaml(data: bytes, rng: random.Random) -> bytes:
    """A YAML document, mutated in the same way."""
    import yaml

    choice = rng.random()
    if choice < 0.2:
        return damaged(data, rng)
    if choice < 0.6:
        lines = data.decode().splitlines(keepends=True)
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(YAML_LINES))
        return "".join(lines).encode(errors="surrogatepass")
    value = changed(yaml.safe_load(data), rng)
    return yaml.dump(value, sort_keys=False).encode(errors="surrogatepass")


def changed(value: Any, rng: random.Random) -> Any:
    """A value with one of its parts changed, often deep inside."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys: Any = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(list(keys))
        value = dict(value) if isinstance(value, dict) else list(value)
        action = rng.random()
        if action < 0.1:
            del value[key]
        elif action < 0.15 and isinstance(value, dict):
            value[str(rng.choice(VALUES))] = value.pop(key)
        elif action < 0.2 and isinstance(value, list):
            value.insert(key, value[key])
        else:
            value[key] = changed(value[key], rng)
        return value
    return rng.choice(VALUES)


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": damaged_json,
    ".jsonl": damaged_json,
    ".yaml": damaged_yaml,
}
"""Suffix -> mutation of such a file; other files get damaged bytes."""
