"""The audit: what a user's KL function or loss computes, and whether it is right.

A function is called on inputs whose answer is known, its values are fitted by the estimators of
:mod:`klbench.estimators`, and its expected gradient is enumerated; each fault is a finding. The
package can be called itself: ``klbench.audit(function)``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klbench.audit.findings import Audit


class _Package(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Audit:
        from klbench.audit.api import audit

        return audit(*args, **options)


sys.modules[__name__].__class__ = _Package
