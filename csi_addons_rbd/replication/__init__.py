# SPDX-License-Identifier: Apache-2.0
"""What replication means: pure Python, without gRPC, protobuf, librbd or librados."""
