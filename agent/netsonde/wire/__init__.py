"""What travels over NATS: verbs, requests, replies, records, events, headers. No I/O."""
