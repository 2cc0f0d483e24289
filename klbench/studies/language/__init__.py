"""The parts that training language models by PPO and by DPO have in common, and their part of the page."""
