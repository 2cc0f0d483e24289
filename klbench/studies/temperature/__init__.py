"""Temperature: three quantities that are called the KL where logits are divided by T."""

from klbench.study import Study

STUDY = Study(
    "temperature",
    "what KL penalties measure where logits are divided by a temperature",
    __name__,
    options_at=".options:TemperatureOptions",
    summarize_at=".run:summarize",
)
