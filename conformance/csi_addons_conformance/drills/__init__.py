# SPDX-License-Identifier: Apache-2.0
"""Long cases with data: only run where they are asked for, by ``--select drill``."""
