# SPDX-License-Identifier: Apache-2.0
"""Flags and environment."""

import subprocess
import sys
from pathlib import Path

import pytest

from csi_addons_rbd.__main__ import main
from csi_addons_rbd.command_line import ConfigError, parse
from csi_addons_rbd.config import Address, Config, LogFormat, LogLevel, ProbeConfig

_NEEDED = ("serve", "--endpoint", "unix:///run/csi.sock", "--driver-name", "rbd.test")


def serve(*flags: str, **environ: str) -> Config:
    """Parse a ``serve`` line."""
    parsed = parse((*_NEEDED, *flags), environ)
    assert isinstance(parsed, Config)
    return parsed


def test_defaults() -> None:
    """What is not said has the documented default."""
    config = serve()
    assert config.endpoint == Path("/run/csi.sock")
    assert config.config_dir == Path("/etc/ceph-csi-config")
    assert config.metrics_address is None
    assert (config.call_timeout, config.promote_wait, config.grace) == (60, 45, 10)
    assert (config.state_check_interval, config.connect_timeout, config.read_timeout) == (30, 5, 10)
    assert (config.max_calls, config.max_calls_per_cluster) == (256, 160)
    assert config.log_level is LogLevel.INFO


def test_environment_and_flag() -> None:
    """A variable counts like its flag, and the flag wins."""
    variables = {"CSI_ADDONS_RBD_CALL_TIMEOUT": "7", "CSI_ADDONS_RBD_LOG_FORMAT": "console"}
    config = serve("--call-timeout", "9", **variables)
    assert config.call_timeout == 9
    assert config.log_format is LogFormat.CONSOLE


def test_environment_alone() -> None:
    """All of it may come from the environment."""
    variables = {
        "CSI_ADDONS_RBD_ENDPOINT": "unix:///run/other.sock",
        "CSI_ADDONS_RBD_DRIVER_NAME": "rbd.test",
    }
    config = parse(("serve",), variables)
    assert isinstance(config, Config)
    assert config.endpoint == Path("/run/other.sock")


def test_probe() -> None:
    """``probe`` has flags of its own."""
    config = parse(("probe", "--endpoint", "unix:///run/csi.sock", "--timeout", "2"), {})
    assert config == ProbeConfig(endpoint=Path("/run/csi.sock"), timeout=2)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:9090", Address(host="0.0.0.0", port=9090)),  # noqa: S104 - only parsed
        ("[::1]:9090", Address(host="::1", port=9090)),
        ("localhost:0", Address(host="localhost", port=0)),
        ("", None),
    ],
)
def test_metrics_address(text: str, address: Address | None) -> None:
    """HOST:PORT, also with an IPv6 host; nothing switches the endpoint off."""
    assert serve("--metrics-address", text).metrics_address == address


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        (" ", ()),
        ("a", ("a",)),
        ("rook-ceph, b ,b", ("rook-ceph", "b")),
        ("a,\n", ("a",)),
        ("a\nb\n", ("a", "b")),
        ("a,,b c", ("a", "b", "c")),
        ("\"a\",'b'", ("a", "b")),
    ],
)
def test_local_clusters(text: str, names: tuple[str, ...]) -> None:
    """As people write a list into a config map; without any, all clusters may be this site's."""
    assert serve("--local-clusters", text).local_clusters == names
    assert serve().local_clusters == ()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--endpoint", "tcp://0.0.0.0:9000"),
        ("--endpoint", "/run/csi.sock"),
        ("--endpoint", "unix://relative.sock"),
        ("--endpoint", f"unix:///{'x' * 107}"),
        ("--driver-name", ""),
        ("--driver-name", "  "),
        ("--local-clusters", ","),
        ("--local-clusters", '""'),
        ("--local-clusters", "a\0"),
        ("--metrics-address", "9090"),
        ("--metrics-address", ":9090"),
        ("--metrics-address", "localhost:99999"),
        ("--log-level", "loud"),
        ("--log-format", "xml"),
        ("--call-timeout", "0"),
        ("--call-timeout", "-1"),
        ("--call-timeout", "nan"),
        ("--call-timeout", "inf"),
        ("--call-timeout", "1m"),
        ("--connect-timeout", "2.5"),
        ("--read-timeout", "0"),
        ("--max-calls", "0"),
        ("--max-calls", "many"),
        ("--max-calls-per-cluster", "-3"),
        ("--grace", ""),
    ],
)
def test_bad_value(flag: str, value: str) -> None:
    """One sentence names the flag, what came and what is accepted."""
    with pytest.raises(ConfigError) as caught:
        serve(flag, value)
    text = str(caught.value)
    assert text.startswith(f"{flag} is {value!r}; accepted is ")
    assert "\n" not in text


def test_bad_variable_is_named() -> None:
    """A wrong variable is named as such, not as the flag."""
    with pytest.raises(ConfigError, match=r"^CSI_ADDONS_RBD_GRACE is 'soon'; accepted is"):
        serve(CSI_ADDONS_RBD_GRACE="soon")


def test_limits_belong_together() -> None:
    """One cluster may never take every place."""
    with pytest.raises(ConfigError, match="must be less than --max-calls"):
        serve("--max-calls", "10", "--max-calls-per-cluster", "10")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((), "a command is needed"),
        (("run",), "invalid choice"),
        (("serve", "--driver-name", "x"), "--endpoint (or CSI_ADDONS_RBD_ENDPOINT) is missing"),
        (("serve", "--endpoint", "unix:///s"), "--driver-name (or CSI_ADDONS_RBD_DRIVER_NAME)"),
        ((*_NEEDED, "--colour", "red"), "unrecognized arguments: --colour red"),
        ((*_NEEDED, "--call", "3"), "unrecognized arguments: --call 3"),
    ],
)
def test_mistakes_exit_with_2(
    argv: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake on the command line ends in exit code 2 and one line."""
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints one line and ends well."""
    with pytest.raises(SystemExit) as caught:
        main(("--version",))
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("csi-addons-rbd ")


def test_worker_side_stays_light() -> None:
    """What a worker imports to start brings neither grpc, protobuf nor prometheus along."""
    code = (
        "import sys, csi_addons_rbd.__main__, csi_addons_rbd.config, csi_addons_rbd.logs;"
        "print(sorted({'grpc', 'google.protobuf', 'prometheus_client', 'rbd'} & set(sys.modules)))"
    )
    result = subprocess.run((sys.executable, "-c", code), capture_output=True, check=True)
    assert result.stdout.strip() == b"[]"
