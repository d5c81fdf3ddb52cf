# SPDX-License-Identifier: Apache-2.0
"""The fault matrix: every fault by every call by before it and in the middle of it."""
