"""Is this firmware file signed by a key that this host trusts?

`verify` is the verb; one file a signature format (blob, minisign, cms) says what has to be
hashed and judges the digests; `keys` reads the trusted ones. The firmware is read once, in a
worker thread, a chunk at a time, and every digest comes from that one reading. A key's type
fixes its algorithm; nothing in a request or a signature can choose another.
"""
