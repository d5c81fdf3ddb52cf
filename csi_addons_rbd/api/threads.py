# SPDX-License-Identifier: Apache-2.0
"""Threads for calls, which do with fewer where no more can be started.

grpc hands a call to its threads in the one thread that serves all of them. What is raised there
ends that one, and with it the whole server: no call, and no Probe, would be answered any more.
"""

from concurrent.futures import ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """At most so many threads, and at least one.

    Raises:
        RuntimeError: not even that one can be started.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self.submit(lambda: None).result()

    def _adjust_thread_count(self) -> None:
        """Start another one; without it what was submitted waits for one that there is."""
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
