# SPDX-License-Identifier: Apache-2.0
"""The main job, acted on two real Ceph sites: ``python -m demo``.

Everything that happens to replication happens through gRPC calls on the drivers' sockets;
everything that is checked is read back as an administrator of the site, beside the driver.
"""
