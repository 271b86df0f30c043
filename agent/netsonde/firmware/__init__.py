"""Verifies that a firmware file is signed by a key that this host trusts.

`verify` is the verb. Each signature format (blob, minisign, cms) has one module, which names the
digests that it needs and judges them. `keys` reads the trusted keys. A worker thread reads the
firmware once, chunk by chunk, and feeds every digest from that one pass. A key's type fixes its
algorithm. A request or a signature cannot choose another.
"""
