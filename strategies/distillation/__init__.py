"""How are clean labels told from noisy ones, and what can be learned from both?

``SPLITTERS`` divide a corpus by its losses. Importing this package brings in no torch; ``fixmatch`` does, when it is imported.
"""

from __future__ import annotations

from strategies.distillation.gmm_split import SPLITTERS, Split, gmm_split

__all__ = ["SPLITTERS", "Split", "gmm_split"]
