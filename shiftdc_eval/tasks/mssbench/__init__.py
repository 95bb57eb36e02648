"""MSSBench: one query with a safe and an unsafe picture of the situation."""
