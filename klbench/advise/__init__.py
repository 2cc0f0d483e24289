"""Advice from stored tables.

Which estimator, combination and weight errs least at a length, a KL and a lag.
"""
