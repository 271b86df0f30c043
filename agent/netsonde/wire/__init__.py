"""The messages on NATS: verbs, requests, replies, records, events, headers. No I/O."""
