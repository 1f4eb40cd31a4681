"""What is measured when all trials have ended: error bars, and the fronts on `test`."""
