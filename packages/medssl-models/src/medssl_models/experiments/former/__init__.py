"""What version 0.1 called otherwise: its records, and its probes; for one minor version."""
