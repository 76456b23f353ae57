"""What every experiment shares: settings, metrics, records, and the one loop that runs them."""
