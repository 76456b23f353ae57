"""Logistic regression: objective, Newton and Gram solvers, and the fit of the 2022 study."""
