# SPDX-License-Identifier: Apache-2.0
"""Requests as the log shows them."""

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd.api.render import render

_REQUESTS = [
    GetMessageClass(method.input_type)
    for method in pb.DESCRIPTOR.services_by_name["Controller"].methods
]


def test_plain_fields() -> None:
    """Nested messages, maps and scalars come out as plain values; unset ones do not."""
    volume = pb.ReplicationSource.VolumeSource(volume_id="v")
    request = pb.PromoteVolumeRequest(
        force=True,
        parameters={"a": "b"},
        replication_source=pb.ReplicationSource(volume=volume),
    )
    assert render(request) == {
        "force": True,
        "parameters": {"a": "b"},
        "replication_source": {"volume": {"volume_id": "v"}},
    }


@pytest.mark.parametrize("kind", _REQUESTS)
def test_secrets_are_left_out(kind: type[Message]) -> None:
    """No request shows its secret, neither key nor value."""
    request = kind()
    request.secrets["userKey"] = "verysecret"  # type: ignore[attr-defined]
    shown = str(render(request))
    assert "verysecret" not in shown
    assert "userKey" not in shown
    assert "secrets" not in render(request)
