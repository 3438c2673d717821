"""Names the cause of a failure from evidence, quotes what proves it, and gives the way out."""
