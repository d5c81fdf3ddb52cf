# SPDX-License-Identifier: Apache-2.0
"""The generated modules against ``wire-contract.json``: every row, in both directions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    ServiceDescriptor,
)

from csi_addons_rbd._proto import csi_option_pb2, identity_pb2, replication_pb2

_CONTRACT: Final = json.loads(
    (Path(__file__).parents[1] / "wire-contract.json").read_text(encoding="utf-8")
)["packages"]
_FILES: Final = {
    "identity": identity_pb2.DESCRIPTOR,
    "replication": replication_pb2.DESCRIPTOR,
}
_SECRET: Final[Any] = csi_option_pb2.csi_secret
_SCALARS: Final = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
}


def test_contract_names_our_packages() -> None:
    """Both packages are there, and carry the names that clients dial."""
    assert {file.package for file in _FILES.values()} == set(_CONTRACT)


@pytest.mark.parametrize("package", _CONTRACT)
def test_services(package: str) -> None:
    """Each service has exactly the calls of the contract, none of them streaming."""
    services = _FILES[package].services_by_name
    assert {name: _calls(service) for name, service in services.items()} == {
        name: {call: [*types, False, False] for call, types in calls.items()}
        for name, calls in _CONTRACT[package]["services"].items()
    }


@pytest.mark.parametrize("package", _CONTRACT)
def test_messages(package: str) -> None:
    """There are exactly the messages of the contract."""
    assert set(_messages(_FILES[package])) == set(_CONTRACT[package]["messages"])


@pytest.mark.parametrize(
    ("package", "message"),
    [(package, message) for package in _CONTRACT for message in _CONTRACT[package]["messages"]],
)
def test_fields(package: str, message: str) -> None:
    """A message has exactly the fields of the contract: number, name, type, and every mark."""
    fields = _messages(_FILES[package])[message].fields
    expected = _CONTRACT[package]["messages"][message]["fields"]
    assert [_row(field) for field in fields] == sorted(expected, key=lambda row: row["number"])


@pytest.mark.parametrize("package", _CONTRACT)
def test_enums(package: str) -> None:
    """There are exactly the enums of the contract, with its names and numbers."""
    assert _enums(_FILES[package]) == _CONTRACT[package]["enums"]


def test_secret_option() -> None:
    """The option that marks credentials is CSI's own, so other tools honour it, too."""
    assert (_SECRET.full_name, _SECRET.number, _SECRET.containing_type.full_name) == (
        "csi.v1.csi_secret",
        1059,
        "google.protobuf.FieldOptions",
    )


def _calls(service: ServiceDescriptor) -> dict[str, list[Any]]:
    return {
        call.name: [
            call.input_type.full_name,
            call.output_type.full_name,
            call.client_streaming,
            call.server_streaming,
        ]
        for call in service.methods
    }


def _walk(messages: Any) -> Iterator[Descriptor]:
    """Yield messages and those nested in them, without the entries that maps are made of."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from _walk(message.nested_types)


def _messages(file: FileDescriptor) -> dict[str, Descriptor]:
    found = _walk(file.message_types_by_name.values())
    return {message.full_name.removeprefix(f"{file.package}."): message for message in found}


def _enums(file: FileDescriptor) -> dict[str, dict[str, int]]:
    enums: list[EnumDescriptor] = list(file.enum_types_by_name.values())
    for message in _messages(file).values():
        enums += message.enum_types
    return {
        enum.full_name.removeprefix(f"{file.package}."): {
            value.name: value.number for value in enum.values
        }
        for enum in enums
    }


def _row(field: FieldDescriptor) -> dict[str, Any]:
    """Write a field as the contract does, which leaves out every mark that is not set."""
    options = field.GetOptions()
    entry = field.message_type if _is_map(field) else None
    marks: dict[str, Any] = {
        "deprecated": options.deprecated,
        "secret": options.Extensions[_SECRET],
        "repeated": field.is_repeated and entry is None,
        "oneof": field.containing_oneof.name if field.containing_oneof else "",
    }
    return {
        "number": field.number,
        "name": field.name,
        "type": _type(field) if entry is None else _map_type(entry),
        **{name: mark for name, mark in marks.items() if mark},
    }


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_type(entry: Descriptor) -> str:
    fields = entry.fields_by_name
    return f"map<{_type(fields['key'])}, {_type(fields['value'])}>"


def _type(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    return str(named.full_name) if named else _SCALARS[field.type]
