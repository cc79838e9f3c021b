"""What stage 11 works with: rows, trainers and processes, and the tuned target in its folder."""
