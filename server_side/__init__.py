"""Everything that may see releases and nothing else: from admission to the tuned target."""
