"""The conformance matrix: which releases it takes, and which options' defaults it keeps."""

import conformance
import pytest

from klbench import trainers
from klbench.trainers.installed import MissingError


@pytest.mark.parametrize("release", ["trl", "trl==", "trll==1.0", "../trl==1.0", "trl==1.0;x"])
def test_a_release_that_is_none_is_one_line(release: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        conformance.main([release])
    assert ended.value.code == 2
    assert f"{release}: expected NAME==VERSION of trl" in capsys.readouterr().err


def test_every_library_has_a_trainer_that_is_known() -> None:
    packages = {each.package for each in trainers.TRAINERS}
    assert set(conformance.libraries()) == packages - {""}


def test_the_defaults_of_known_options_are_kept_and_of_those_that_name_a_kl() -> None:
    try:
        rows = list(conformance.option_defaults("trl"))
    except (MissingError, StopIteration):
        pytest.skip("trl is not installed")
    found = {(row["trainer"], row["option"]): row["default"] for row in rows}
    assert found["trl_grpo", "beta"] == "0.0"
    assert found["trl_grpo", "use_bias_correction_kl"] == "true"
    assert found["trl_rloo", "beta"] == "0.05"
    assert ("trl_grpo", "learning_rate") not in found
