# SPDX-License-Identifier: Apache-2.0
"""The restricted pod security standard, as far as a pod template can break it.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/, with the additions
that these manifests make to it: a read-only root file system and a numeric user.
"""

from collections.abc import Iterator
from typing import Final

from rendering import Object

_VOLUMES: Final = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: Object, containers: list[Object]) -> set[str]:
    """Say what the standard forbids in the pod itself and in these of its containers."""
    return {*_of_pod(pod), *(each for one in containers for each in _of_container(pod, one))}


def of_whole(pod: Object) -> set[str]:
    """The same for all containers of the pod."""
    return violations(pod, [*pod["containers"], *pod.get("initContainers", ())])


def _of_pod(pod: Object) -> Iterator[str]:
    for shared in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(shared):
            yield shared
    for volume in pod["volumes"]:
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}: {kind}"


def _of_container(pod: Object, container: Object) -> Iterator[str]:
    of_pod = pod.get("securityContext", {})
    own = container.get("securityContext", {})
    both = {**of_pod, **own}
    user = both.get("runAsUser")
    wrong = {
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is not True,
        "capabilities": own.get("capabilities") != {"drop": ["ALL"]},
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "runAsUser": not isinstance(user, int) or user == 0,
        "seccompProfile": both.get("seccompProfile") != {"type": "RuntimeDefault"},
        "hostPort": any("hostPort" in port for port in container.get("ports", ())),
    }
    for rule, broken in wrong.items():
        if broken:
            yield f"{container['name']}: {rule}"
