"""Language models: the text and the small models that come with klbench, loading, generation,
scoring.

Everything heavy is imported inside functions: importing this package loads neither torch nor
transformers.
"""
