"""Has the label's party of SecretFlow's `sgb` sum up gradients by bins of its own features without encryption.

Upstream it encrypts its own gradients, adds them up and decrypts the sums again, for itself. Runs in party processes.
"""

from __future__ import annotations

from typing import Any

from secretflow.ml.boost.sgb_v.factory.components.gradient_encryptor.gradient_encryptor import GradientEncryptor

_stock = GradientEncryptor.cache_to_workers


def use_plain_sums() -> None:
    """Replace what a party sums up in all trainings of this process, ours and the component's."""
    GradientEncryptor.cache_to_workers = _gradients_of_parties


def _gradients_of_parties(self: Any, encrypted_gh: Any, gh: Any) -> dict[Any, Any]:
    if self.params.label_holder_feature_only:
        return _stock(self, encrypted_gh, gh)  # type: ignore[no-any-return]
    return {
        party: (gh if party == self.label_holder else encrypted_gh).to(self.heu, self.get_move_config(party))
        for party in self.workers
    }
