"""The ways between the agent and NATS: connections, publishing, an embedded server."""
