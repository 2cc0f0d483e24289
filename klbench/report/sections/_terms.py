"""Words that several sections explain; a page shows each once."""

from __future__ import annotations

DISTRIBUTIONS = (
    "q, p",
    (
        "q is the distribution that is sampled: in RLHF the policy, the model in training. p is the one it is "
        "compared with: the reference."
    ),
)
RATIO = (
    "r",
    ("p(x)/q(x), the ratio of the two densities at a sample x. log r is the log-ratio; r has mean 1 over samples of q."),
)
SCHULMAN = ("k1, k2, k3", ("Schulman's three estimators of KL(q‖p) from one sample: −log r, (log r)²/2, and (r − 1) − log r."))
FAMILIES = (
    (
        "k_lambda, k_fitted",
        (
            "−log r + λ(r − 1): k1 with a part of the control variate r − 1, whose mean is zero. λ is fixed, or "
            "fitted on the other half of the batch."
        ),
    ),
    (
        "clamped (k3_verl, ..._openrlhf)",
        "The same cut off at a limit, as training libraries do it: finite noise, bought with bias.",
    ),
)
BREGMAN = (
    "bregman_...",
    ("f(r) − f(1) − f′(1)(r − 1) for a convex f: never negative, and each f aims at a divergence of its own."),
)
DTYPES = (
    "float64, float32, bfloat16, float16",
    (
        "Formats of floating-point numbers, which keep about 16, 7, 2 to 3, and 3 to 4 decimal digits. Training computes "
        "in float32 or bfloat16."
    ),
)
