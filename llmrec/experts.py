"Deprecated: the models are in `baselines`, `closed_form`, `sequence` and `two_tower`."
from ._deprecated import old_module_names, old_names

__all__ = old_module_names('experts')
__getattr__ = old_names(__name__)
