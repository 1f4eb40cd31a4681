"""The lecture's table and claims: ways to fine-tune and to merge, ours beside the published figures."""
