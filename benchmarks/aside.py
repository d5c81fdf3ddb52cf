# SPDX-License-Identifier: Apache-2.0
"""A process of its own that keeps its connections: it shares an interpreter lock with nobody."""

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Aside:
    """One spawned process, which runs functions one after another.

    Args:
        connect: Run first, there, with ``arguments``.
    """

    def __init__(self, connect: Callable[..., None], *arguments: Any) -> None:
        self._executor = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=connect, initargs=arguments
        )

    def __enter__(self) -> Self:
        """Begin; it is started by the first thing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._executor.shutdown()

    def start(
        self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs
    ) -> "Future[_T]":
        """Have a function run there."""
        return self._executor.submit(function, *arguments, **named)

    def run(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """Have a function run there, and wait for what it returns."""
        return self.start(function, *arguments, **named).result()
