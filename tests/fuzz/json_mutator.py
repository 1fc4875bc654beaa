"""Makes JSON of JSON: one value replaced, dropped, doubled or moved; sometimes one byte changed."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

__all__ = ["mutate", "mutate_value"]

# Values that readers stumble over.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1 << 31, 1 << 64, 10**400, -(10**400), 0.5, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), "", "a", "\n", "\x00", "\x1b[2J", "\ud800", "\u2028", "]]>",
    "# SKIP", [], {}, [[]], {"": {}}, ["--require"], ["-h"], ["--"],
)  # fmt: skip

Place = tuple[Any, Any]


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Return another input of at most ``longest`` bytes, as libFuzzer's custom mutators do."""
    import atheris

    chance = random.Random(seed)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if value is None or chance.random() < 0.1:
        mutated: bytes = atheris.Mutate(data, longest)
        return mutated
    for _ in range(chance.randint(1, 3)):
        value = mutate_value(value, chance)
    made = json.dumps(value).encode(errors="surrogatepass")
    return made if len(made) <= longest else data[:longest]


def mutate_value(value: Any, chance: random.Random) -> Any:
    """Return ``value`` with one change; it may be changed in place."""
    places = list(_places(value))
    if not places:
        return deepcopy(chance.choice(ODD))
    parent, key = chance.choice(places)
    match chance.randrange(6):
        case 0 | 1:
            parent[key] = deepcopy(chance.choice(ODD))
        case 2:
            del parent[key]
        case 3:
            other, where = chance.choice(places)
            parent[key] = deepcopy(other[where]) if where in _keys(other) else None
        case 4 if isinstance(parent, list):
            parent.insert(key, deepcopy(parent[key]))
        case 4:
            parent[f"{key} "] = deepcopy(parent[key])
        case _:
            parent[key] = _near(parent[key], chance)
    return value


def _near(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice((-1, 1, 1 << chance.randrange(70), -value))
    if isinstance(value, float):
        return value * chance.choice((-1.0, 1e300, 0.0))
    if isinstance(value, str):
        at = chance.randint(0, len(value))
        return (
            value[:at]
            + chance.choice(("", ".", "\0", "\x85", "\ud800", "é", " "))
            + value[at + 1 :]
        )
    return value


def _places(value: Any) -> Iterator[Place]:
    """Give every place in ``value``: what holds it, and under which key."""
    pending = [value]
    while pending:
        holder = pending.pop()
        for key in _keys(holder):
            yield holder, key
            pending.append(holder[key])


def _keys(holder: Any) -> Any:
    if isinstance(holder, dict):
        return list(holder)
    return range(len(holder)) if isinstance(holder, list) else ()
