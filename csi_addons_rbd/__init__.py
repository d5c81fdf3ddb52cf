# SPDX-License-Identifier: Apache-2.0
"""CSI-Addons replication driver for Ceph RBD."""
