"""What people look at: records of trials, plots, MLflow."""
