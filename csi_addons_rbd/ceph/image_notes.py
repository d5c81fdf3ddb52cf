# SPDX-License-Identifier: Apache-2.0
"""This driver's metadata on an image, below ``.rbd``: it stays on its site, librbd mirrors none.

It is written with the methods of Ceph's object class ``rbd`` on the image's header, as librbd
itself does, but without what librbd does before: it takes the exclusive lock, and so takes it
away from the workload, for whose sake Demote looks at who holds that lock. A secondary takes
notes this way, too.
"""

from collections.abc import Mapping
from typing import Final

import rados

from csi_addons_rbd.ceph.metadata import replace_metadata
from csi_addons_rbd.ceph.rbd_header import header_object

_PREFIX: Final = ".rbd.csi-addons-rbd."


def notes_among(metadata: Mapping[str, str]) -> dict[str, str]:
    """Pick them out of all metadata of an image."""
    return {
        key.removeprefix(_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_PREFIX)
    }


def replace_note(
    ioctx: rados.Ioctx, image_id: str, key: str, standing: str | None, value: str | None
) -> None:
    """Write or remove one, if there still stands what was read before.

    Raises:
        ImageChanged: another driver was quicker.
    """
    replace_metadata(ioctx, header_object(image_id), _PREFIX + key, standing or "", value)
