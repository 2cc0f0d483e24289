"""The section of the comparison with other libraries says what the tables hold."""

import pandas as pd
from markupsafe import escape

from klbench.studies.peers import section as peers_section

ROW = {
    "subject": "k3", "version": "1.0", "dtype": "float32", "values": 9, "max_rel_error": 1e-7, "median_rel_error": 1e-8,
    "frac_wrong": 0.0, "n_nonfinite": 0, "max_gradient_rel_error": 1e-7, "frac_flat": 0.0, "n_nan_gradient": 0, "status": "ok",
    "twin": None, "twin_difference": None,
}  # fmt: skip


def tables() -> dict[str, pd.DataFrame]:
    own = [ROW | {"library": "klbench", "name": "k3", "regime": each} for each in ("near", "extreme")]
    other = ROW | {"library": "<b>lib", "name": "low_var_kl", "twin": "k3_verl", "twin_difference": 0.0}
    near = other | {"regime": "near", "max_rel_error": 85.0, "median_rel_error": 0.13}
    far = other | {"regime": "extreme", "frac_wrong": 1.0, "frac_flat": 0.5, "n_nan_gradient": 3}
    gone = {"subject": "k3", "library": "trl", "name": "GRPO", "status": "skipped: trl is not installed"}
    key = {"subject": "k3", "dtype": "float32", "pass": "forward"}
    speed = [
        key | {"library": library, "name": name, "ratio": ratio, "ratio_q25": ratio, "ratio_q75": ratio}
        for library, name, ratio in (("klbench", "k3", 1.0), ("<b>lib", "low_var_kl", 0.25))
    ]
    return {"peers": pd.DataFrame([*own, near, far, gone]), "peers_speed": pd.DataFrame(speed)}


def text(blocks) -> str:
    """As the page has it: escaped, but for what is markup."""
    return " ".join(
        str(escape(each)) for block in blocks for each in (getattr(block, "text", ""), *getattr(block, "items", ()))
    )


def test_the_answer_names_errors_gradients_and_times() -> None:
    said = text(peers_section.answer(tables()))
    assert "half of the values are off by more than (and the worst by)" in said
    assert "low_var_kl</code>: 0.13 (85)" in said
    assert "Extreme, values off by 1 % or more" in said
    assert "a gradient of 0 where there is one: &lt;b&gt;lib <code>low_var_kl</code>: 50 %" in said
    assert "NaN in the gradient: &lt;b&gt;lib <code>low_var_kl</code>: 3 of its elements" in said
    assert "Time, klbench&#39;s = 1, forward: &lt;b&gt;lib <code>low_var_kl</code>: 0.25" in said.replace(
        "klbench's", "klbench&#39;s"
    )
    assert "Not compared: GRPO (trl is not installed). make peers, in a checkout, has them all." in said
    assert "<b>lib" not in said


def test_accuracy_and_time_stand_in_one_table() -> None:
    figure, table = peers_section.build(tables())
    assert [panel.title for panel in figure.panels] == ["k3"]
    assert "klbench 1.0×10⁻⁸, <b>lib 0.13." in figure.panels[0].alt
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1
    titles = [str(column.title) for column in table.columns]
    other = dict(zip(titles, table.rows[1], strict=True))
    assert other["Value, near"].value == 85.0
    assert other["Value, near"].tone == "bad"
    assert other["Zero, extreme"].tone == other["NaN"].tone == "bad"
    assert str(other["Forward"].text).startswith("0.25 (")
    assert "k3_verl" in str(other["Same as"].text)


def test_without_any_library_it_says_so() -> None:
    (block,) = peers_section.answer({"peers": tables()["peers"].iloc[-1:]})
    assert block.tone == "warning"
