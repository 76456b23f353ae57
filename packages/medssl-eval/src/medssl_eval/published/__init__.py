"""The 2022 study's released numbers, and records beside them."""
