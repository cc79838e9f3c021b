"""What stage 13 measures with: metrics, judges and intervals, for one run and for many compared."""
