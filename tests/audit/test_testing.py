"""The assertions for test-suites, and the plugin."""

import subprocess
import sys

import pytest
import right_functions as right
import wrong_functions as wrong

from klbench import ConfigError, testing

pytest_plugins = ["pytester"]


def test_check_kl_passes_what_is_expected_and_says_what_else_it_is():
    assert testing.check_kl(right.k3, expect="k3").identified == "k3"
    assert testing.check_kl(right.low_var_kl, expect="k3_verl").identified == "k3_clamped:10"
    with pytest.raises(AssertionError, match="expected k1, it is k3"):
        testing.check_kl(right.k3, expect="k1")
    with pytest.raises(AssertionError, match="the half is missing"):
        testing.check_kl(wrong.k2_without_half)
    with pytest.raises(ConfigError, match="unknown estimator 'k33'"):
        testing.check_kl(right.k3, expect="k33")


def test_check_gradient_knows_both_directions():
    testing.check_gradient(right.k2, expect="KL(q‖p)")
    testing.check_gradient(right.k3, expect="KL(p||q)")
    with pytest.raises(
        AssertionError, match=r"expected the gradient of KL\(q‖p\), it is that of KL\(p‖q\)"
    ):
        testing.check_gradient(right.k3, expect="KL(q||p)")
    with pytest.raises(AssertionError, match="detached"):
        testing.check_gradient(wrong.no_grad_kl, expect="KL(q||p)")
    with pytest.raises(ConfigError, match="expect-gradient 'reverse'"):
        testing.check_gradient(right.k3, expect="reverse")


@testing.parametrize_with_checks(
    {right.numpy_k1: {}, right.with_coefficient: {"fixed": {"kl_coef": 0.5}, "allow": ["sign"]}}
)
def test_a_right_function_passes_every_check(function, check):
    check(function)


def test_one_test_a_check_and_only_the_faults_fail(pytester):
    pytester.makepyfile("""
        from klbench.testing import parametrize_with_checks

        def kl(logprobs, ref_logprobs):
            return ref_logprobs - logprobs

        @parametrize_with_checks([kl])
        def test_kl(function, check):
            check(function)
        """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, passed=22)
    result.stdout.fnmatch_lines(["*FAILED*kl-sign*"])


def test_the_plugin_imports_nothing_heavy():
    code = (
        "import klbench.testing.plugin, sys; print({'torch', 'pandas', 'scipy', 'numpy'} &"
        " set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )
