"""The KL functions and policy losses of the trainers that are installed here, as targets.

Each is imported, or taken from its installed file by its syntax tree where an import fails:
trainers pin versions that exclude each other, and one import needs a cluster's worth of packages.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from klbench.audit import field_of_losses as losses
from klbench.audit.findings import FROM_FILE, IMPORTED
from klbench.trainers import installed
from klbench.types import ConfigError

FULL = "student_full_logprobs, teacher_full_logprobs"
JENSEN_SHANNON = (0.0, 1.0, 0.5)
"""The weights of generalised Jensen-Shannon losses: KL(p‖q), KL(q‖p), and between."""


@dataclass(frozen=True)
class Place:
    """A function of a trainer, and how the audit calls it.

    Parameters
    ----------
    library, file, name
        The distribution, its file, and the function in it, or ``Class.method``.
    options
        Parameters that a user sets, with their values: shown with the name.
    used_as, args
        As in :func:`klbench.audit.api.audit`.
    fixed
        Parameters that are the same in all of them.
    assigned, names
        In place of the function what it assigns to that name first, as a function of these names.
    wrap
        Makes a function that the audit can call of theirs.
    """

    library: str
    file: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    used_as: str = "kl"
    args: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    assigned: str = ""
    names: tuple[str, ...] = ()
    wrap: Callable[..., Callable[..., Any]] | None = None

    @property
    def function(self) -> str:
        """The name on the page, with what was taken of it."""
        return f"{self.name}: {self.assigned}" if self.assigned else self.name

    @property
    def words(self) -> str:
        """Its options, as ``key=value``."""
        return " ".join(f"{key}={value}" for key, value in self.options.items())

    @property
    def target(self) -> str:
        """The words that name it among all of them."""
        return f"{self.library}/{self.file}:{self.function} {self.words}".strip()

    @property
    def version(self) -> str:
        """The version that is installed; empty where none is."""
        try:
            return importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def audited(self) -> dict[str, Any]:
        """Return the options of its audit."""
        given = {} if self.wrap else {**self.fixed, **self.options}
        return {"used_as": self.used_as, "args": self.args, "fixed": given}

    def load(self) -> tuple[Callable[..., Any], str]:
        """Return the function, and whether it was imported or taken from its file.

        Raises
        ------
        ConfigError
            It is not to be had: one line that says why.
        """
        try:
            theirs, how = self._found()
        except installed.MissingError as error:
            raise ConfigError(str(error)) from error
        if self.wrap is None:
            return theirs, how
        made = self.wrap(theirs, **self.options)
        made.__dict__.update(__signature__=inspect.signature(made), __wrapped__=theirs)
        return made, how  # with the arguments of the one, and the line of the other

    def _found(self) -> tuple[Callable[..., Any], str]:
        if self.assigned:
            place = (self.library, self.file, self.name, self.assigned, self.names)
            return installed.expression(*place), FROM_FILE
        try:
            return installed.imported(self.file, self.name), IMPORTED
        except Exception:  # noqa: BLE001  # an import of somebody's package may raise anything
            return installed.function(self.library, self.file, self.name), FROM_FILE


def _trl() -> Iterator[Place]:
    log_probs = ("per_token_logps", "ref_per_token_logps")
    for file, name in (
        ("trl/trainer/grpo_trainer.py", "GRPOTrainer._compute_loss"),
        ("trl/experimental/gmpo/gmpo_trainer.py", "GMPOTrainer._compute_loss"),
    ):
        yield Place("trl", file, name, assigned="per_token_kl", names=log_probs)
    file, name = "trl/trainer/rloo_trainer.py", "RLOOTrainer._generate_and_score_completions"
    log_probs = ("old_per_token_logps", "ref_per_token_logps")
    yield Place(
        "trl",
        file,
        name,
        used_as="reward",
        args="logprobs, ref_logprobs",
        assigned="per_token_kl",
        names=log_probs,
    )
    for beta in JENSEN_SHANNON:
        name = "GKDTrainer.generalized_jsd_loss"
        yield Place(
            "trl",
            "trl/experimental/gkd/gkd_trainer.py",
            name,
            {"beta": beta},
            fixed={"labels": None},
        )
        file = "trl/experimental/server_distillation/server_distillation_trainer.py"
        yield Place("trl", file, "_jsd_divergence", {"beta": beta}, args=FULL)
    for alpha in JENSEN_SHANNON:
        file = "trl/experimental/sdpo/loss_utils.py"
        yield Place("trl", file, "compute_divergence", {"alpha": alpha}, args=FULL)
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"):
        for corrected in (False, True):
            yield Place(
                "trl",
                "trl/trainer/grpo_trainer.py",
                "GRPOTrainer._compute_loss",
                {"loss_type": kind, "use_bias_correction_kl": corrected},
                "loss",
                wrap=losses.trl_grpo,
            )


def _verl() -> Iterator[Place]:
    core = "verl/trainer/ppo/core_algos.py"
    for kind in ("kl", "abs", "mse", "low_var_kl", "k1+", "k3+"):
        yield Place("verl", core, "kl_penalty", {"kl_penalty": kind})
    file = "verl/trainer/distillation/fsdp/losses.py"
    yield Place("verl", file, "kl_divergence", args=FULL)
    for kind in (
        "vanilla",
        "dppo_tv",
        "dppo_kl",
        "gspo",
        "sapo",
        "gpg",
        "clip_cov",
        "kl_cov",
        "geo_mean",
        "dro",
        "cispo",
    ):
        yield Place("verl", core, f"compute_policy_loss_{kind}", used_as="loss", wrap=losses.verl)


def _openrlhf() -> Iterator[Place]:
    for estimator in ("k1", "k2", "k3"):
        for unbiased in (False, True):
            yield Place(
                "openrlhf",
                "openrlhf/models/utils.py",
                "compute_approx_kl",
                {"kl_estimator": estimator, "unbiased_gradient": unbiased},
            )
    for kind in ("ppo", "gspo"):
        options = {"policy_loss_type": kind}
        yield Place(
            "openrlhf",
            "openrlhf/models/loss.py",
            "PolicyLoss.forward",
            options,
            "loss",
            wrap=losses.openrlhf,
        )


def _liger() -> Iterator[Place]:
    library, file = "liger-kernel", "liger_kernel/chunked_loss/grpo_loss.py"
    yield Place(library, file, "k3_loss_fn", args="ref_logprobs, logprobs")
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"):
        for corrected in (False, True):
            yield Place(
                library,
                file,
                "LigerFusedLinearGRPOFunction.ppo_loss_fn",
                {"loss_type": kind, "use_bias_correction_kl": corrected},
                "loss",
                wrap=losses.liger,
            )
    for beta in JENSEN_SHANNON:
        file, name = "liger_kernel/chunked_loss/jsd_loss.py", "LigerFusedLinearJSDFunction"
        yield Place(
            library, file, f"{name}.distillation_loss_fn", {"beta": beta}, fixed={"target": None}
        )


def _swift() -> Iterator[Place]:
    file = "swift/rlhf_trainers/gkd_loss.py"
    yield Place("ms-swift", file, "default_kl_div", args=FULL)
    for beta in JENSEN_SHANNON:
        yield Place(
            "ms-swift", file, "jsd_loss", {"beta": beta}, args="student_logits, teacher_logits"
        )
    yield Place(
        "ms-swift", "swift/rl_core/advantage.py", "compute_teacher_kl_per_token", used_as="reward"
    )
    yield Place(
        "ms-swift",
        "swift/rlhf_trainers/grpo_trainer.py",
        "GRPOTrainer._compute_loss_and_metrics",
        args="log_ratio",
        assigned="per_token_kl",
        names=("safe_ratio",),
    )


def _skyrl() -> Iterator[Place]:
    file = "skyrl/backends/skyrl_train/utils/ppo_utils.py"
    for kind in ("k1", "abs", "k2", "k3"):
        yield Place("skyrl", file, "compute_approx_kl", {"kl_estimator_type": kind})
    for name in (
        "ppo_policy_loss",
        "sapo_policy_loss",
        "gspo_policy_loss",
        "compute_policy_loss_cispo",
        "rollout_is_policy_loss",
        "dppo_policy_loss",
        "compute_policy_loss_clip_cov",
        "compute_policy_loss_kl_cov",
    ):
        fixed: dict[str, Any] = {"config": losses.SKYRL}
        if name != "rollout_is_policy_loss":
            fixed["rollout_logprobs"] = None
        yield Place("skyrl", file, name, used_as="loss", fixed=fixed)
    for name in ("ppo_loss", "cispo_loss"):
        yield Place(
            "skyrl", "skyrl/tinker/loss_fns.py", name, used_as="loss", fixed=losses.SKYRL_JAX
        )


def _areal() -> Iterator[Place]:
    for kind in ("k1", "k2", "k3"):
        for clamped in (True, False):
            yield Place(
                "areal",
                "areal/utils/data.py",
                "KLEstimator._compute_approx_kl",
                {"kl_estimator": kind, "apply_clamp": clamped},
            )
    file = "areal/utils/functional/functional.py"
    for level in ("token", "sequence"):
        options = {"importance_sampling_level": level}
        yield Place("areal", file, "ppo_actor_loss_fn", options, "loss", wrap=losses.areal)
        yield Place(
            "areal", file, "sapo_loss_fn", options, "loss", fixed={"tau_pos": 1.0, "tau_neg": 1.05}
        )


def _unsloth() -> Iterator[Place]:
    file = "unsloth_zoo/rl_replacements.py"
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"):
        for corrected in (False, True):
            yield Place(
                "unsloth-zoo",
                file,
                "grpo_compute_loss",
                {"loss_type": kind, "use_bias_correction_kl": corrected},
                "loss",
                wrap=losses.unsloth,
            )
    for beta in JENSEN_SHANNON:
        yield Place("unsloth-zoo", file, "_distillation_generalized_jsd", {"beta": beta}, args=FULL)


def _tinker() -> Iterator[Place]:
    yield Place(
        "tinker-cookbook",
        "tinker_cookbook/rl/metrics.py",
        "compute_kl_sample_train",
        used_as="reward",
        args="old_logprobs, logprobs",
        assigned="logprob_diff",
        names=("sampling_logprobs_actions", "training_logprobs_actions"),
    )


def places() -> list[Place]:
    """All functions that are known, installed or not, trainer by trainer."""
    trainers = (_trl, _verl, _openrlhf, _liger, _swift, _skyrl, _areal, _unsloth, _tinker)
    return [place for trainer in trainers for place in trainer()]


def load(target: str) -> tuple[Callable[..., Any], str]:
    """Return the function of a place's ``target``, and how it was taken.

    Raises
    ------
    ConfigError
        It is not to be had: one line that says why.
    """
    return next(place for place in places() if place.target == target).load()
