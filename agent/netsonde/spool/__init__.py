"""The bounded queue on disk between the flow records and JetStream."""
