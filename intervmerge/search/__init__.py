"""Many configurations: the space, the sampler, the workers, the study."""
