# SPDX-License-Identifier: Apache-2.0
"""A feeder's protocols in plain Python, written from docs/protocol.md and the pages it links, and from nothing else of
this repository. It needs libssl.so.3 and libcrypto.so.3. A test of the text, not a product: slow, and one thread."""
