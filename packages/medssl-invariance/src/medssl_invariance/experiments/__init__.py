"""The two experiments, synthetic transforms and views, and what they share."""
