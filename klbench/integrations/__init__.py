"""Callbacks for trainers: what the doctor says while training."""
