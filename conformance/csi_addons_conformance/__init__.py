# SPDX-License-Identifier: Apache-2.0
"""A conformance suite for CSI-Addons replication drivers of Ceph RBD.

It needs a socket per site and a two-site lab, and knows nothing of how a driver is made.
"""
