"""The capture buffer: packet retrieval and encryption keys."""
