"""peatnet: peer-to-peer, content-addressed distribution of AI models.

``open_node`` gives an async node on trio; the manifest types stand in ``peatnet.models``. Names are loaded
when first used, so that ``import peatnet`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peatnet.config import Config as Config
    from peatnet.config import FetchPolicy as FetchPolicy
    from peatnet.config import load_config as load_config
    from peatnet.errors import PeatnetError as PeatnetError
    from peatnet.models import HardwareRequirements as HardwareRequirements
    from peatnet.models import LocalModelState as LocalModelState
    from peatnet.models import ModelManifest as ModelManifest
    from peatnet.models import ModelUpdateCommand as ModelUpdateCommand
    from peatnet.node import Node as Node
    from peatnet.opening import open_node as open_node
    from peatnet.views import Change as Change
    from peatnet.views import GetResult as GetResult
    from peatnet.views import ModelChanged as ModelChanged
    from peatnet.views import ModelView as ModelView
    from peatnet.views import PeerChanged as PeerChanged
    from peatnet.views import PeerView as PeerView
    from peatnet.views import Progress as Progress
    from peatnet.views import SourceChoice as SourceChoice

__version__ = "0.1.0"

_HOME = {
    "Change": "views",
    "Config": "config",
    "FetchPolicy": "config",
    "GetResult": "views",
    "HardwareRequirements": "models",
    "LocalModelState": "models",
    "ModelChanged": "views",
    "ModelManifest": "models",
    "ModelUpdateCommand": "models",
    "ModelView": "views",
    "Node": "node",
    "PeatnetError": "errors",
    "PeerChanged": "views",
    "PeerView": "views",
    "Progress": "views",
    "SourceChoice": "views",
    "load_config": "config",
    "open_node": "opening",
}

__all__ = [*sorted(_HOME), "__version__"]  # noqa: PLE0604  # all are strings; the rule cannot see it  # all are strings; the list is built from _HOME


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"peatnet.{home}"), name)
