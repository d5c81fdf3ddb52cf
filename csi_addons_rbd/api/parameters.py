# SPDX-License-Identifier: Apache-2.0
"""Class parameters: what a VolumeReplicationClass may say.

The same ones come with each call, and each call reads its own:

======================= ================= ======================================================
``mirroringMode``       Enable, Promote   ``snapshot`` (default) or ``journal``
``schedulingInterval``  Enable, Promote   whole number and ``s`` (10 at least), ``m``, ``h`` or
                                          ``d``; default none
``schedulingStartTime`` Enable, Promote   ISO 8601, needs an interval in ``m``, ``h`` or ``d``;
                                          default none
``flattenMode``         Enable            ``never`` (default) or ``force``
``force``               Disable           ``true`` or ``false`` (default), spelt as Go may
``resyncMode``          Resync            ``split-brain`` (default): only that is resynced;
                                          ``always``: ``force`` resyncs any secondary, once
======================= ================= ======================================================

Journal mode has no schedule. Its interval is checked all the same, since the controller asks for
GetVolumeReplicationInfo by it; a start time is ignored with a warning.
"""

import re
from collections.abc import Mapping
from datetime import datetime, time
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

import structlog

from csi_addons_rbd.replication.calls import MirroringMode, Schedule
from csi_addons_rbd.replication.errors import InvalidParameter

_log = structlog.get_logger(__name__)
_Choice = TypeVar("_Choice", bound=StrEnum)
_Parameters: TypeAlias = Mapping[str, str]

_KNOWN: Final = frozenset(
    {
        "mirroringMode",
        "schedulingInterval",
        "schedulingStartTime",
        "flattenMode",
        "force",
        "resyncMode",
    }
)
_INTERVAL: Final = re.compile(r"([0-9]{1,6})([smhd])")
_INTERVAL_ACCEPTED: Final = (
    "a whole number greater than 0 and m, h or d, such as 5m, or at least 10 and s, such as 30s"
)
_SECONDS: Final = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}
_LEAST: Final = 10
"""Seconds of the shortest interval."""
_START: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})?(?:(?(1)T)\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_START_ACCEPTED: Final = "ISO 8601, such as 14:30:00+02:00 or 2030-01-31T14:30:00Z"
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SHOWN: Final = 80
"""Characters of a wrong value that an error text repeats."""

_warned: set[str] = set()
"""Unknown parameters that were logged already, once for the life of the process."""
_WARNED_MOST: Final = 1000


class ResyncMode(StrEnum):
    """What a forced resync may touch: parameter ``resyncMode``."""

    SPLIT_BRAIN = "split-brain"
    ALWAYS = "always"


def known(parameters: _Parameters) -> _Parameters:
    """Log what nobody reads, once, and return the parameters as they are."""
    for name in sorted(parameters.keys() - _KNOWN - _warned):
        if len(_warned) < _WARNED_MOST:
            _warned.add(name)
            _log.warning("an unknown parameter is ignored", parameter=name)
    return parameters


def choice(parameters: _Parameters, name: str, default: _Choice) -> _Choice:
    """Read one of a few words.

    Raises:
        InvalidParameter: another word came.
    """
    kind = type(default)
    try:
        return kind(parameters.get(name, default))
    except ValueError:
        raise _invalid(parameters, name, " or ".join(kind)) from None


def flag(parameters: _Parameters, name: str) -> bool:
    """Read a truth value, false by default.

    Raises:
        InvalidParameter: neither true nor false came.
    """
    text = parameters.get(name, "false")
    if text not in _TRUE | _FALSE:
        raise _invalid(parameters, name, "true or false")
    return text in _TRUE


def schedule(parameters: _Parameters, mode: MirroringMode) -> Schedule | None:
    """Read when mirror snapshots shall be taken; ``None`` when nothing was asked for.

    Raises:
        InvalidParameter: interval or start time are malformed, or the interval is missing.
    """
    if mode is MirroringMode.JOURNAL:
        _check_polling(parameters)
        return None
    if not {"schedulingInterval", "schedulingStartTime"} & parameters.keys():
        return None
    if "schedulingInterval" not in parameters:
        raise InvalidParameter(
            f"parameter schedulingStartTime is {short(parameters['schedulingStartTime'])}, but "
            f"schedulingInterval is missing; accepted is {_INTERVAL_ACCEPTED}"
        )
    seconds, by_driver = _interval(parameters)
    start_time = _start_time(parameters)
    if by_driver and start_time is not None:
        _log.warning("an interval in seconds has no start time", ignored="schedulingStartTime")
        start_time = None
    return Schedule(seconds=seconds, by_driver=by_driver, start_time=start_time)


def _check_polling(parameters: _Parameters) -> None:
    """Check the interval of a journal, which tells the controller how often to ask."""
    if "schedulingInterval" in parameters:
        _interval(parameters)
    if "schedulingStartTime" in parameters:
        _log.warning("journal mode has no schedule", ignored="schedulingStartTime")


def _interval(parameters: _Parameters) -> tuple[int, bool]:
    """Return the seconds, and whether they were asked for as such."""
    match = _INTERVAL.fullmatch(parameters["schedulingInterval"])
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if match is None or seconds < _LEAST:
        raise _invalid(parameters, "schedulingInterval", _INTERVAL_ACCEPTED)
    return seconds, match[2] == "s"


def _start_time(parameters: _Parameters) -> str | None:
    name = "schedulingStartTime"
    text = parameters.get(name)
    if text is None:
        return None
    match = _START.fullmatch(text)
    if not text or match is None:
        raise _invalid(parameters, name, _START_ACCEPTED)
    try:
        (datetime if match[1] else time).fromisoformat(text)
    except ValueError:
        raise _invalid(parameters, name, _START_ACCEPTED) from None
    return text


def _invalid(parameters: _Parameters, name: str, accepted: str) -> InvalidParameter:
    return InvalidParameter(
        f"parameter {name} is {short(parameters[name])}; accepted is {accepted}"
    )


def short(text: str) -> str:
    """Quote a wrong value, no longer than a line."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
