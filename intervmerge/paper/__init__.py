"""Tables and figures of the IntervMerge paper (arXiv:2412.17023) as commands, ours beside the published ones."""
