"""Advice from stored tables: which estimator, combination and weight errs least at a length, a KL and a lag."""
