"""What people keep: versions of a dataset, their manifest, their splits, and their exports."""
