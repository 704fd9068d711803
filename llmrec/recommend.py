"Deprecated: see `lists`, `search`, `serve`, `judge` and `recommender`."
from ._deprecated import old_module_names, old_names

__all__ = old_module_names('recommend')
__getattr__ = old_names(__name__)
