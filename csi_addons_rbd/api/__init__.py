# SPDX-License-Identifier: Apache-2.0
"""gRPC in, gRPC out: the serving process, which never imports rbd or rados."""
