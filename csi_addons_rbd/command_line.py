# SPDX-License-Identifier: Apache-2.0
"""Flags and environment, parsed and validated once into one frozen object.

Every flag of ``serve`` and ``probe`` has a twin in the environment: ``--call-timeout`` is also
``CSI_ADDONS_RBD_CALL_TIMEOUT``; the flag wins.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from csi_addons_rbd.config import (
    CONFIG_FILE,
    MAPPING_FILE,
    PROGRAM,
    Address,
    Config,
    LogFormat,
    LogLevel,
    ProbeConfig,
    version,
)

_PREFIX: Final = "CSI_ADDONS_RBD_"
_SCHEME: Final = "unix://"
_SOCKET_PATH_MAX: Final = 107
"""Bytes of ``sun_path`` on Linux, less the closing NUL (unix(7))."""
_PORT_MAX: Final = 65535


class ConfigError(Exception):
    """A flag or variable is wrong; the text is the one sentence to show."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config | ProbeConfig:
    """Read the command line and the environment.

    Raises:
        ConfigError: a value is missing, unknown or not accepted.
        SystemExit: ``--help`` or ``--version`` was asked for and printed.
    """
    flags = vars(_parser().parse_args(argv))
    command = flags.pop("command")
    if command is None:
        raise ConfigError("a command is needed: serve or probe (see --help)")
    options = _SERVE if command == "serve" else _PROBE
    values = {option.field: option.value(flags, environ) for option in options}
    if command == "probe":
        return ProbeConfig(**values)
    config = Config(**values)
    if config.max_calls_per_cluster >= config.max_calls:
        raise ConfigError(
            f"--max-calls-per-cluster is {config.max_calls_per_cluster}, but must be less "
            f"than --max-calls, which is {config.max_calls}"
        )
    return config


# --- readers of one value: each raises ValueError for what is not accepted ----------------


def _endpoint(text: str) -> Path:
    path = text.removeprefix(_SCHEME)
    fits = len(path.encode(errors="surrogateescape")) <= _SOCKET_PATH_MAX
    if not text.startswith(_SCHEME) or not path.startswith("/") or "\0" in path or not fits:
        raise ValueError
    return Path(path)


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError
    return text.strip()


def _directory(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def _names(text: str) -> tuple[str, ...]:
    """Read a list as people write it into a config map: by commas or blanks, in lines, quoted."""
    parts = (each.strip("\"'") for each in re.split(r"[\s,]+", text))
    names = tuple(dict.fromkeys(_name(each) for each in parts if each))
    if text.strip() and not names:
        raise ValueError(text)
    return names


def _address(text: str) -> Address | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > _PORT_MAX:
        raise ValueError
    return Address(host=host, port=int(port))


def _log_format(text: str) -> LogFormat:
    if text:
        return LogFormat(text)
    return LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError
    return value


# --- the flags ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One flag, its twin in the environment, and what it accepts."""

    flag: str
    read: Callable[[str], object]
    accepted: str
    default: str | None
    help: str

    @property
    def field(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        return _PREFIX + self.field.upper()

    def value(self, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Any:
        """Return the value given, by flag, variable or default in this order."""
        given, text = self.flag, flags[self.field]
        if text is None:
            given, text = self.variable, environ.get(self.variable)
        if text is None:
            given, text = self.flag, self.default
        if text is None:
            raise ConfigError(
                f"{self.flag} (or {self.variable}) is missing; accepted is {self.accepted}"
            )
        try:
            return self.read(text)
        except ValueError:
            raise ConfigError(f"{given} is {text!r}; accepted is {self.accepted}") from None


_ENDPOINT: Final = _Option(
    flag="--endpoint",
    read=_endpoint,
    accepted=f"unix:///absolute/path of at most {_SOCKET_PATH_MAX} bytes",
    default=None,
    help="Unix socket of the gRPC server",
)

_IN_SECONDS: Final = "a number of seconds greater than 0"
_IN_WHOLE_SECONDS: Final = "a whole number of seconds greater than 0"
_IN_CALLS: Final = "a whole number greater than 0"

_SERVE: Final = (
    _ENDPOINT,
    _Option(
        flag="--driver-name",
        read=_name,
        accepted="a name that is not empty, such as rbd.replication.example.com",
        default=None,
        help="name under which the driver reports itself",
    ),
    _Option(
        flag="--config-dir",
        read=_directory,
        accepted=f"the directory of {CONFIG_FILE} and {MAPPING_FILE}",
        default="/etc/ceph-csi-config",
        help=f"directory of {CONFIG_FILE} and {MAPPING_FILE}",
    ),
    _Option(
        flag="--local-clusters",
        read=_names,
        accepted=f"ID,… as in {CONFIG_FILE}, or nothing for all of them",
        default="",
        help=f"clusterIDs of {CONFIG_FILE} that are this site's",
    ),
    _Option(
        flag="--metrics-address",
        read=_address,
        accepted="HOST:PORT, or nothing for no metrics",
        default="",
        help="HOST:PORT of the prometheus endpoint",
    ),
    _Option(
        flag="--log-level",
        read=LogLevel,
        accepted=", ".join(LogLevel),
        default=LogLevel.INFO,
        help="least severe events that are logged",
    ),
    _Option(
        flag="--log-format",
        read=_log_format,
        accepted=", ".join(LogFormat),
        default="",
        help="console or json; by default console on a terminal",
    ),
    _Option(
        flag="--call-timeout",
        read=_seconds,
        accepted=_IN_SECONDS,
        default="60",
        help="seconds within which every call is answered",
    ),
    _Option(
        flag="--promote-wait",
        read=_seconds,
        accepted=_IN_SECONDS,
        default="45",
        help="seconds that Promote, Demote and Resync wait for the peer",
    ),
    _Option(
        flag="--state-check-interval",
        read=_count,
        accepted=_IN_WHOLE_SECONDS,
        default="30",
        help="the sites' rbd_mirror_image_state_check_interval, in seconds",
    ),
    _Option(
        flag="--connect-timeout",
        read=_count,
        accepted=_IN_WHOLE_SECONDS,
        default="5",
        help="seconds to connect to a cluster, with the lookup of its monitors' names",
    ),
    _Option(
        flag="--read-timeout",
        read=_count,
        accepted=_IN_WHOLE_SECONDS,
        default="10",
        help="seconds to wait for one read from a cluster",
    ),
    _Option(
        flag="--max-calls",
        read=_count,
        accepted=_IN_CALLS,
        default="256",
        help="replication calls at once, in all",
    ),
    _Option(
        flag="--max-calls-per-cluster",
        read=_count,
        accepted=f"{_IN_CALLS} and less than --max-calls",
        default="160",
        help="replication calls at once to one cluster",
    ),
    _Option(
        flag="--grace",
        read=_seconds,
        accepted=_IN_SECONDS,
        default="10",
        help="seconds that running calls may go on after SIGTERM",
    ),
)

_PROBE: Final = (
    _ENDPOINT,
    _Option(
        flag="--timeout",
        read=_seconds,
        accepted=_IN_SECONDS,
        default="5",
        help="seconds to wait for the answer",
    ),
)


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one sentence rather than the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="CSI-Addons volume replication for Ceph RBD.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version()}")
    commands = parser.add_subparsers(dest="command", metavar="serve | probe")
    for name, options, text in (
        ("serve", _SERVE, "run the driver"),
        ("probe", _PROBE, "exit with 0 if the driver is ready"),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for option in options:
            default = f"; default {option.default}" if option.default else ""
            command.add_argument(
                option.flag, metavar="X", help=f"{option.help} [{option.variable}{default}]"
            )
    return parser
