"""The flight recorder: what was captured, asked for afterwards, and the keys that seal it."""
