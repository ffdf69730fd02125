"""Images in: sources, border checks, manifest, quality, loading, synthetic defects."""
