"""The smallest embedded models, for the module that asks for them."""

import pytest


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
