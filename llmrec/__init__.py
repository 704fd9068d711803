"""LLM transfer learning for recommender systems."""
__version__ = "0.1.0"


def __getattr__(name):
    "Load a public name from its chapter's module on first use, so that `import llmrec` stays instant."
    from importlib import import_module
    from ._modidx import d
    for module, names in d['syms'].items():
        if f'{module}.{name}' in names: return getattr(import_module(module), name)
    raise AttributeError(f"module 'llmrec' has no attribute {name!r}")
