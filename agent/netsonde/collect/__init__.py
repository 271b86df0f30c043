"""The collector: writes flow batches from the bus to files, each record once."""
