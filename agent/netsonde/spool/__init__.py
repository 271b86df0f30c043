"""The bounded disk queue between the flow records and JetStream."""
