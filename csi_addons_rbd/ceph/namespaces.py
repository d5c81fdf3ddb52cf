# SPDX-License-Identifier: Apache-2.0
"""What stands in the default namespace of a pool, for all of its namespaces."""

from collections.abc import Iterator
from contextlib import contextmanager

import rados


@contextmanager
def default_namespace(ioctx: rados.Ioctx) -> Iterator[None]:
    """Look there for the length of a block."""
    namespace = ioctx.get_namespace()
    ioctx.set_namespace("")
    try:
        yield
    finally:
        ioctx.set_namespace(namespace)
