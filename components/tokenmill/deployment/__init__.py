"""Release and serving: from a verdict to an answering endpoint."""
