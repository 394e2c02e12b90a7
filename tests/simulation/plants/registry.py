"""The bugs that are planted, by name: the modules beside this one register theirs."""

from collections.abc import Callable

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, tuple[Plant, bool]] = {}
"""Name of the bug -> how it is planted, and whether the broker's invariants, which may see it first, are checked."""


def planted(*, invariants: bool = True) -> Callable[[Plant], Plant]:
    """Returns a decorator that registers how a bug is planted."""

    def register(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = plant, invariants
        return plant

    return register
