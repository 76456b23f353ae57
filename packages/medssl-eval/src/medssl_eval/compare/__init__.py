"""Records side by side: cells, tables, paired comparison."""
