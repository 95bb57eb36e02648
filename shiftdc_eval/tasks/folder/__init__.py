"""A benchmark of one's own without Python: a CSV file and the images it names."""
