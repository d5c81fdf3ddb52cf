# SPDX-License-Identifier: Apache-2.0
"""Reads of several objects that are under way at the same time."""

import errno
from collections.abc import Callable
from typing import Final, Self

import rados

_LENGTH: Final = 65536
"""Bytes that an answer may have."""


class Asked:
    """One read; to be looked at when its wave is over."""

    def __init__(self) -> None:
        self.completion: rados.Completion | None = None
        self._data: bytes | None = None

    def answered(self, _: rados.Completion, data: bytes | None = None, *_more: object) -> None:
        """Take what came, in a thread of librados."""
        self._data = data

    @property
    def data(self) -> bytes | None:
        """What was read; ``None`` where there is nothing.

        Raises:
            rados.Error: it could not be read.
        """
        code = self.completion.get_return_value() if self.completion else -errno.ECANCELED
        if code == -errno.ENOENT:
            return None
        if code < 0:
            raise rados.OSError("reading several objects at once", errno=-code)
        return self._data or b""


class Wave:
    """All that is asked inside the block is answered at its end, or has failed.

    However the block ends, it waits: librados writes into what the reads hold.
    """

    def __init__(self, ioctx: rados.Ioctx) -> None:
        self._ioctx = ioctx
        self._asked: list[Asked] = []

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for all."""
        for asked in self._asked:
            if asked.completion is not None:
                asked.completion.wait_for_complete_and_cb()

    def read(self, name: str) -> Asked:
        """Read an object."""
        return self._ask(lambda done: self._ioctx.aio_read(name, _LENGTH, 0, done))

    def execute(self, name: str, cls: str, method: str, request: bytes) -> Asked:
        """Call a method of an object class."""
        return self._ask(
            lambda done: self._ioctx.aio_execute(name, cls, method, request, _LENGTH, done)
        )

    def operate(self, operation: rados.ReadOp, name: str) -> Asked:
        """Carry out an operation, which holds what is read."""
        return self._ask(lambda done: self._ioctx.operate_aio_read_op(operation, name, done))

    def _ask(self, start: Callable[[Callable[..., None]], rados.Completion]) -> Asked:
        asked = Asked()
        asked.completion = start(asked.answered)
        self._asked.append(asked)
        return asked
