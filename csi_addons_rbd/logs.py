# SPDX-License-Identifier: Apache-2.0
"""The log: console lines on a terminal, JSON lines otherwise, always on stderr.

Events are plain words, values are fields. What the standard library's ``logging`` receives
(grpc's own messages) takes the same road. Tracebacks never show local variables, which may
hold keys. The worker processes use this module too: it knows neither grpc nor protobuf.
"""

import logging
import sys
from typing import Final

import structlog
from structlog.typing import EventDict, Processor

from csi_addons_rbd.config import LogFormat, LogLevel

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)

_OURS: Final = frozenset({"exception", "stack"})
"""Fields with lines of this program's own making."""


def configure(*, level: LogLevel, style: LogFormat) -> None:
    """Send every event of this process to stderr; calling it again replaces the set-up."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(style),
            ],
        )
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())


def _renderers(style: LogFormat) -> tuple[Processor, ...]:
    if style is LogFormat.JSON:
        return (
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        )
    return (
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    )


def _printable(_: object, __: str, event: EventDict) -> EventDict:
    """Escape what would move a terminal's cursor or colour it: fields hold what callers sent."""
    for name, value in event.items():
        if isinstance(value, str) and name not in _OURS and not value.isprintable():
            event[name] = "".join(
                each if each.isprintable() else repr(each)[1:-1] for each in value
            )
    return event
