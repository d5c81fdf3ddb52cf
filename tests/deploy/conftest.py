# SPDX-License-Identifier: Apache-2.0
"""Says with which kustomize the manifests are rendered."""

from rendering import kubectl


def pytest_report_header() -> str:
    """Name it at the head of every run."""
    (versions,) = kubectl("version", "--client", "--output=yaml")
    client = versions["clientVersion"]["gitVersion"]
    # kubectl before 1.24 does not tell
    return f"kubectl {client}, kustomize {versions.get('kustomizeVersion', 'of unknown version')}"
