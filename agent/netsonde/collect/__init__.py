"""The collector: flow batches from the bus into files, each record once."""
