"""Short trainings that compare schemes; not published recipes."""
