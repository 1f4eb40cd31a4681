"""Pictures of figures over a coefficient, a count or a rank: lines, levels and dots."""
