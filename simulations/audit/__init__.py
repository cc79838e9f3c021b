"""The empirical audit: canaries, one training run, attacks, and a lower bound on ε."""
