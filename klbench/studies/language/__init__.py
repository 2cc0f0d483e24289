"""What training language models by PPO and by DPO has in common, and its part of the page."""
