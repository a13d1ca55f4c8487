# SPDX-License-Identifier: Apache-2.0
# Encrypted lanes: a library for koffi, and an object for the shim with every symbol but gb_lane_* hidden.
