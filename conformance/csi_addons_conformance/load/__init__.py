# SPDX-License-Identifier: Apache-2.0
"""Load: bad input of every kind, and very many calls; what must not break or grow meanwhile."""
