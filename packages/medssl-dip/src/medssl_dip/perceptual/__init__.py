"""How much of a picture survived: LPIPS, the other metrics, and two pictures compared."""
