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
GRADIENTS = (
    (
        "combination",
        "An estimator and where it stands (its placement), per token or per sequence, with its correction and its baseline.",
    ),
    (
        "score, ∇ log q",
        (
            "The gradient of a sample's log-probability with respect to the policy's parameters. Its mean is zero; multiplied "
            "by a reward, it is the policy gradient."
        ),
    ),
    (
        "in the loss",
        "The estimator is differentiated as it stands, like any loss. What the samples themselves would change is left out.",
    ),
    (
        "in the reward",
        (
            "The estimator is a plain number, held fixed (detached), and multiplies the score: of the whole sequence, or, "
            "with the reward to go, of the tokens up to where it arose."
        ),
    ),
    (
        "straight-through",
        "The value of one estimator with the gradient of another: what is logged is not what is followed.",
    ),
    (
        "semi-gradient",
        (
            "A gradient that leaves out what a token does to the tokens after it. With one token there is nothing to leave "
            "out; the longer the sequence and the further the policy, the more is missing."
        ),
    ),
    (
        "full KL, Rao-Blackwell",
        (
            "The KL over the whole vocabulary at each token instead of an estimate from the token that was drawn. Together "
            "with the score of the tokens before (full_with_score) it is exact, and less noisy: a Rao-Blackwell estimate."
        ),
    ),
    (
        "baseline",
        (
            "A number that is subtracted from what multiplies the score; it changes the noise and not the mean, unless it "
            "depends on the sample. leave_one_out: the mean of the other samples of the group; batch_mean: of all, the sample "
            "included."
        ),
    ),
    (
        "q/μ, correction",
        "μ is the policy that really drew the samples; the ratio q/μ reweights them. Where q draws them itself, it is 1.",
    ),
    (
        "bias of a gradient, off by",
        (
            "The length of the difference between the mean gradient and the gradient of KL(q‖p), over the length of the "
            "latter. 100 %: as far off as a gradient of zero."
        ),
    ),
    (
        "noise of a gradient",
        (
            "The root of the summed variances of all components of one sample's gradient, over the length of the exact "
            "gradient. It falls with the square root of the batch; the bias does not."
        ),
    ),
)
