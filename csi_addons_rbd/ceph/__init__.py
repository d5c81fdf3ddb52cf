# SPDX-License-Identifier: Apache-2.0
"""librbd and librados: everything here runs in a worker process and knows nothing of gRPC."""
