"""What a page opens with, as plain text."""

import html
import re

from klbench.report.blocks import Lead


def plain(text: object) -> str:
    """Text without its tags, and one space where there are several."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", str(text)))).strip()


def said(lead: Lead) -> str:
    """The verdict and the sentences after it."""
    return " ".join(map(plain, (lead.verdict, *lead.more)))
