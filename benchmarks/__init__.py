# SPDX-License-Identifier: Apache-2.0
"""How fast a driver is: beside bare librbd in the same run, or against a bound.

``python -m benchmarks --driver COMMAND``. Nothing here knows how a driver is made.
"""
