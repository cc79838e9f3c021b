"""Everything that may see a private record: from loading to the two released proxies."""
