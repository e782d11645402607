"""Data: rows from a source, split by a partition, measured on train, handed out in batches."""
