"""NATS connections, publishing, object storage, and an embedded server."""
