"""Rules by entry: each looks at a number of all tasks in one place and gives one."""
