"""What explains a result: bias and stitched networks by block, what each task needs, coefficients."""
