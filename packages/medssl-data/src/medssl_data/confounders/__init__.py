"""Does the label follow anything but the disease? Columns and pictures against the label."""
