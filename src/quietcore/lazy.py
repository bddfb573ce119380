"""Packages whose names are imported at their first use, so that a command pays for the modules that it runs and no others.

Such a package imports its names below `TYPE_CHECKING`, for type checkers and the layer rules, and gives `names_of` the same as a
table. tests/unit/test_lazy.py holds both alike.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules


def names_of(package: str, **modules: str) -> Callable[[str], object]:
    """A module `__getattr__` (PEP 562) for a package: for each of its modules the names that it gives, with blanks between them.

    No name may be that of a module of the package, which takes the name's place when it is imported.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        value: object = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return load


def import_whole(*packages: str) -> None:
    """Import every module of some packages: a process that stays must not take one from what an upgrade has put there meanwhile."""
    for package in packages:
        for module in iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
