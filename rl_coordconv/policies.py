"""An SB3 policy in which the actor sees coordinates and the critic does not."""

from __future__ import annotations

import inspect
from typing import Any

from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from rl_coordconv.errors import UserError


class CoordActorPolicy(ActorCriticCnnPolicy):
    """
    SB3's ``CnnPolicy`` with two extractors, of which the actor's alone has coordinates.

    Image weights and heads start as those of ``CnnPolicy`` with ``share_features_extractor=False`` do.

    :param args: As for SB3's ``ActorCriticCnnPolicy``
    :param kwargs: Likewise; the features extractor takes ``coord_layers``
    :raises UserError: It does not, or has them in no layer
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "share_features_extractor": False})

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Return the actor's extractor, which SB3 asks for first, then the critic's."""
        kind = self.features_extractor_class
        chosen = self.features_extractor_kwargs.get("coord_layers")
        if "coord_layers" not in inspect.signature(kind).parameters or (chosen is not None and not chosen):
            raise UserError(
                f"CoordActorPolicy needs an extractor with coordinates, not {kind.__name__}"
                f"{'' if chosen is None else ' with coord_layers ' + str(chosen)}: "
                "give policy_kwargs=policy_kwargs('coordconv')"
            )
        if self.features_extractor is None:
            return super().make_features_extractor()
        without = {**self.features_extractor_kwargs, "coord_layers": ()}
        return kind(self.observation_space, **without)
