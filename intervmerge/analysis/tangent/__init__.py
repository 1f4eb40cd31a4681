"""Models to first order around the pre-trained one: what a task vector changes, and whose images it disturbs."""
