"""LLM transfer learning for recommender systems."""
__version__ = "0.1.0"

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; at run time a name is loaded on first use
    from .baselines import ALS, BPR, Content, ItemKNN, Popularity, RepeatConsumption, UserKNN
    from .closed_form import (
        EASE, SLIM, BilinearContent, Blend, KernelTransfer, Markov, NextItemRidge)
    from .core import InputError
    from .data import Domain, DomainPair, make_synthetic_pair
    from .dataset import Dataset
    from .encode import TextEncoder
    from .encoder_choice import choose_encoder
    from .evaluation import Report, compare, evaluate
    from .expert import Expert, check_expert
    from .explain import Explanation
    from .finetune import transfer_effect
    from .fusion import Fusion, Gate, default_experts
    from .leakage import leakage_audit
    from .learner import TransferPenaltyCB
    from .lists import RecommendationTable
    from .online import Online
    from .pictures import PictureEncoder
    from .pipeline import Options, load_pair, run_pipeline
    from .preprocess import (
        Split, clean, item_text, k_core, split_cold_items, split_cold_users, split_kfold_users,
        split_last, split_time, truncate_source)
    from .privacy import pseudonymize, redact_pii
    from .readers import (
        load_journey, load_movielens, read_amazon, read_movielens, read_movietweetings,
        read_recbole, read_table)
    from .recommender import Recommender
    from .sequence import SASRec, SmoothedSASRec, TextSASRec
    from .serve import RequestScorer
    from .transfer import transfer_loss, transfer_penalty
    from .two_tower import TwoTower
    from .vectors import cosine_sim, interest_vector

__all__ = [
    # domains
    'Domain', 'DomainPair', 'make_synthetic_pair', 'load_journey', 'load_movielens', 'read_amazon',
    'read_movielens', 'read_movietweetings', 'read_recbole', 'read_table', 'InputError',
    # preparation
    'clean', 'item_text', 'k_core', 'leakage_audit', 'Split', 'split_cold_items',
    'split_cold_users', 'split_kfold_users', 'split_last', 'split_time', 'truncate_source',
    # texts
    'TextEncoder', 'choose_encoder', 'PictureEncoder', 'cosine_sim', 'interest_vector',
    # transfer
    'TransferPenaltyCB', 'transfer_effect', 'transfer_loss', 'transfer_penalty',
    # experts
    'Dataset', 'Expert', 'check_expert', 'ALS', 'BPR', 'BilinearContent', 'Blend', 'Content',
    'EASE', 'ItemKNN', 'KernelTransfer', 'Markov', 'NextItemRidge', 'Popularity',
    'RepeatConsumption', 'SASRec', 'SLIM', 'SmoothedSASRec', 'TextSASRec', 'TwoTower',
    'UserKNN', 'Fusion', 'Gate', 'default_experts',
    # the recommender and what follows it
    'Recommender', 'RecommendationTable', 'RequestScorer', 'Explanation', 'Online', 'pseudonymize',
    'redact_pii',
    # measurement and the pipeline
    'Report', 'compare', 'evaluate', 'Options', 'load_pair', 'run_pipeline',
]


class _Package(ModuleType):
    "The package: a module that is loaded answers to its names of the first edition, too."
    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if not isinstance(value, ModuleType) or name.startswith('_'): return
        from ._deprecated import old_names
        vars(value).setdefault('__getattr__', old_names(name))


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str):
    "A public name or a module, loaded on first use, so that `import llmrec` loads no PyTorch."
    from importlib import import_module
    from ._modidx import d
    modules = {home.removeprefix('llmrec.'): names for home, names in d['syms'].items()}
    if name in modules or name in ('experts', 'recommend'): return import_module(f'llmrec.{name}')
    if name in __all__:
        for module, names in modules.items():
            if f'llmrec.{module}.{name}' not in names: continue
            globals()[name] = getattr(import_module(f'llmrec.{module}'), name)
            return globals()[name]
    from ._deprecated import find
    found = None if name.startswith('_') else find(name)
    if found is None: raise AttributeError(f"module 'llmrec' has no attribute {name!r}")
    return found


def __dir__() -> list[str]: return sorted([*__all__, '__version__'])
