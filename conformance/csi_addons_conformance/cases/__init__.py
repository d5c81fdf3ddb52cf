# SPDX-License-Identifier: Apache-2.0
"""The cases, a module for each call of the contract and for what all calls share."""

import importlib
import pkgutil


def load() -> None:
    """Import every module of cases and drills, in which they register themselves."""
    from csi_addons_conformance import drills  # noqa: PLC0415 - a package of cases, too

    for package in (importlib.import_module(__name__), drills):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
