"""Features of a student, and what is kept so that they come quickly."""
