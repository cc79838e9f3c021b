"""Language-model plumbing that knows no party and no privacy."""
