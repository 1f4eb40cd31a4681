"""Rules by matrix: each takes the matrices of all tasks in one place and gives one."""
