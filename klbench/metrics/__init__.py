"""Streaming moments, batch statistics, intervals and tail diagnostics."""
