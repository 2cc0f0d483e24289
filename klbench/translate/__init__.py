"""Translation of a trainer's KL setting: the same penalty, as strong, in another trainer."""
