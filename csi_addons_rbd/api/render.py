# SPDX-License-Identifier: Apache-2.0
"""Requests as the log may show them: what the schema calls secret is left out.

The proto option ``csi.v1.csi_secret`` decides, not a list of names, so that a field added to
the protocol tomorrow is covered by the protocol's own mark.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_SECRET: Final = "csi.v1.csi_secret"  # noqa: S105 - the option's name


def render(message: Message) -> dict[str, object]:
    """Return the fields that are set, without the secret ones."""
    return {
        field.name: _plain(value) for field, value in message.ListFields() if not _is_secret(field)
    }


def _is_secret(field: FieldDescriptor) -> bool:
    return any(
        option.full_name == _SECRET and bool(value)
        for option, value in field.GetOptions().ListFields()
    )


def _plain(value: Any) -> object:
    if isinstance(value, Message):
        return render(value)
    if isinstance(value, str | bytes | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value]
