"""What a run is measured by: metrics, judges, intervals; for one run and for many compared."""
