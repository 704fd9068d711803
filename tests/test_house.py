"""House rules, held by the code itself: layers, lengths, names, types, and the package's face."""
import ast, importlib, io, json, re, subprocess, sys, tokenize, warnings
from pathlib import Path
import pytest
import architecture
from architecture import ORDER, files

ROOT = Path(__file__).resolve().parents[1]
MODULES = files()
HAND_WRITTEN = [ROOT/'llmrec'/f'{n}.py' for n in ('__init__', '_deprecated', 'experts', 'recommend')]
SOURCES = [*MODULES.values(), *HAND_WRITTEN]
each_module = pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.stem)

def tree(path): return ast.parse(path.read_text(encoding='utf-8'))

def python(code):
    "Run code in a fresh process; its output."
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0, r.stderr[-3000:]
    return r.stdout.strip()


# What leans on what
def test_every_module_has_its_layer(): assert set(MODULES) == set(ORDER) and len(ORDER) == len(set(ORDER))
def test_imports_go_down_only(): assert not architecture.upward()
def test_no_circle(): assert not architecture.circles()
def test_no_private_name_crosses_a_border(): assert not architecture.private()

@each_module
def test_no_module_is_longer_than_900_lines(path):
    lines = path.read_text(encoding='utf-8').splitlines()      # a directive of the notebook is no line of code
    assert sum(not line.startswith('#| ') for line in lines) <= 900

def test_nothing_patches_a_class_of_another_module():
    "`@patch` grows a class in the chapter that defines it, and nowhere else, but for `enc.pretrain`, whose chapter comes later."
    foreign, known = [], ('TextEncoder.pretrain', 'TfidfEncoder.pretrain')
    for name, path in MODULES.items():
        t = tree(path)
        own = {n.name for n in t.body if isinstance(n, ast.ClassDef)}
        for f in t.body:
            if not (isinstance(f, ast.FunctionDef) and any('patch' in ast.unparse(d) for d in f.decorator_list)): continue
            cls = ast.unparse(f.args.args[0].annotation)
            if cls not in own and not f.name.startswith('_') and f'{cls}.{f.name}' not in known:
                foreign.append(f'{name}.py:{f.lineno} patches {cls}.{f.name}')
    assert not foreign


# Density
@each_module
def test_one_statement_a_line(path):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding='utf-8')).readline)
    assert not [f'{path.name}:{t.start[0]}' for t in tokens if t.type == tokenize.OP and t.string == ';']

@each_module
def test_lines_have_at_most_100_characters(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    first = next((i for i, l in enumerate(lines) if l.startswith('# %%') and 'auto' not in l), 0)   # below what nbdev writes
    assert not [f'{path.name}:{i + 1}' for i, l in enumerate(lines) if i > first and len(l) > 100]

COMPUTES = (ast.Call, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.Lambda)

@each_module
def test_no_assignment_hides_two_computations(path):
    "`a, b = f(x), g(y)` is two lines; taking one call's result apart, or swapping two names, is one."
    bad = []
    for n in ast.walk(tree(path)):
        if not (isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Tuple) and isinstance(n.value, ast.Tuple)): continue
        if sum(any(isinstance(x, COMPUTES) for x in ast.walk(e)) for e in n.value.elts) > 1: bad.append(f'{path.name}:{n.lineno}')
    assert not bad

@each_module
def test_no_comprehension_for_its_side_effects(path):
    shown = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Expr) and isinstance(n.value, (ast.ListComp, ast.SetComp, ast.GeneratorExp))]
    assert not [f'{path.name}:{n.lineno}' for n in shown]

@each_module
def test_no_error_is_swallowed(path):
    "A broad `except` raises again."
    bad = []
    for n in ast.walk(tree(path)):
        if not isinstance(n, ast.ExceptHandler): continue
        broad = n.type is None or any(x in ('Exception', 'BaseException') for x in re.findall(r'\w+', ast.unparse(n.type)))
        if broad and not any(isinstance(x, ast.Raise) for x in ast.walk(n)): bad.append(f'{path.name}:{n.lineno}')
    assert not bad

def stored_names():
    "Names that modules assign, with how often."
    for path in MODULES.values():
        for n in ast.walk(tree(path)):
            targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, (ast.AugAssign, ast.AnnAssign)) else []
            for t in targets: yield from (x.id for x in ast.walk(t) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store))

def test_names_are_words():
    "Formula letters stand in short functions that show a formula: a tenth of assigned names, in the first edition more than half."
    names = list(stored_names())
    assert sum(len(n) == 1 for n in names) <= .12*len(names)


# Cells of teaching chapters; how many of a chapter may be longer, and why
LONG_CELLS = { # as `python tests/test_house.py` counts them; to be trimmed, not to grow
    '04_evaluation': 1,     # a block of ranks
    '09_learner': 1,        # the Learner
    '11_finetune': 2,       # the two models
    '12_expert': 1,         # files from experts
    '17_fusion': 6,         # the Fusion
    '34_pictures': 2,       # parts of the network, a picture opened
    '36_encoder_choice': 3, # histories, candidates, and the choice
}

def long_cells(path):
    "Cells shown to the reader with more than 15 lines of code; imports alone, and folded code, do not count."
    for i, c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        src = ''.join(c['source'])
        if c['cell_type'] != 'code' or re.search(r'^#\| (hide|code-fold: true)', src, re.M): continue
        lines = [l for l in src.strip().splitlines() if not l.startswith('#|')]
        if len(lines) <= 15: continue
        body = ast.parse(re.sub(r'^[!%].*', 'pass', src, flags=re.M)).body
        if not all(isinstance(n, (ast.Import, ast.ImportFrom, ast.Try)) or ast.unparse(n).startswith('log = ') for n in body): yield i

@pytest.mark.parametrize('path', sorted((ROOT/'nbs').glob('[0-4]*.ipynb')), ids=lambda p: p.stem)
def test_cells_fit_the_reader(path):
    found = list(long_cells(path))
    assert len(found) <= LONG_CELLS.get(path.stem, 0), f'{path.stem}: cells {found} have more than 15 lines'


# Types
def functions(path):
    "Public functions and methods of a module: (where, function, is it a method)."
    for n in tree(path).body:
        if isinstance(n, ast.FunctionDef) and not n.name.startswith('_'):
            patched = any('patch' in ast.unparse(d) for d in n.decorator_list)
            yield f'{path.stem}.{n.name}', n, patched
        if not isinstance(n, ast.ClassDef) or n.name.startswith('_'): continue
        for f in n.body:
            if isinstance(f, ast.FunctionDef) and (not f.name.startswith('_') or f.name == '__init__'):
                yield f'{path.stem}.{n.name}.{f.name}', f, 'staticmethod' not in map(ast.unparse, f.decorator_list)

def untyped(f, method):
    "Parameters of a function without a type, and 'return' if it does not say what it gives."
    a = f.args
    known = [*a.posonlyargs, *a.args][1 if method else 0:] + a.kwonlyargs + [x for x in (a.vararg, a.kwarg) if x]
    return [x.arg for x in known if x.annotation is None] + ['return']*(f.returns is None and f.name != '__init__')

@pytest.mark.parametrize('path', list(MODULES.values()), ids=list(MODULES))
def test_public_functions_are_typed(path):
    assert not {where: missing for where, f, method in functions(path) if (missing := untyped(f, method))}

@pytest.mark.parametrize('path', list(MODULES.values()), ids=list(MODULES))
def test_public_functions_say_what_they_do(path):
    assert not [where for where, f, method in functions(path) if not method and not ast.get_docstring(f)]

USE = '''import numpy as np
import pandas as pd
from llmrec import Domain, Recommender, compare, evaluate, make_synthetic_pair, split_time, truncate_source

pair = make_synthetic_pair(0)
split = split_time(pair.target)
rec = Recommender('tfidf', strategy='auto', seed=0, budget='fast', device=None)
rec = rec.fit(pair.target.with_log(split.train), truncate_source(pair.source, split), split.valid)
items, scores = rec.recommend(['u1', 'u2'], k=5, exclude_seen=True)
one = rec.recommend('u1', k=3)
frame = rec.recommend(pd.Series(['u1']), k=3, as_frame=True)
items, scores = rec.recommend_from_history(['f0001'], k=5)
items, scores = rec.recommend_from_text('a whale', k=5)
matrix: np.ndarray = rec.score(['u1'])
print(rec.explain('u1', 'f0001'))
rec.add_items(pd.DataFrame(dict(item=['n'], title=['new'])))
rec.update(pd.DataFrame(dict(user=['u1'], item=['n'])))
rec.forget('u1')
rec.save('model')
again = Recommender.load('model')
report = evaluate(rec, split, ks=(10,))
print(compare({'ours': report, 'again': evaluate(again, split, ks=(10,))}), report.metrics['ndcg@10'])
'''

def pyright(path):
    "What pyright says of a file; skips where it cannot run."
    pytest.importorskip('pyright', reason='pyright is not installed: pip install "llmrec[dev]"')
    run = [sys.executable, '-m', 'pyright', '--outputjson', '--pythonpath', sys.executable, str(path)]
    r = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=600)
    try: return json.loads(r.stdout)['generalDiagnostics']
    except (json.JSONDecodeError, KeyError): pytest.skip(f'pyright cannot run here: {(r.stderr or r.stdout)[-200:]}')

@pytest.fixture(scope='module')
def said(tmp_path_factory):
    "Diagnostics of a program that uses the package, and the type of every public name."
    import llmrec
    path = ROOT/'tests'/'_typed_use.py'         # beside the package, so that pyright finds it
    known = ''.join(f'reveal_type(llmrec.{n})\n' for n in llmrec.__all__)
    path.write_text(USE + 'import llmrec\n' + known, encoding='utf-8')
    try: return pyright(path)
    finally: path.unlink()

def test_a_program_that_uses_the_package_has_the_right_types(said):
    assert not [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in said if d['severity'] == 'error']

def test_pyright_knows_every_public_name(said):
    "No public name, none of its parameters and no return has an unknown type (what a bare `dict` holds may be unknown)."
    types = [d['message'] for d in said if d['severity'] == 'information' and d['message'].startswith('Type of')]
    assert len(types) > 50 and not [t for t in types if re.search(r'(: |-> |")(type\[)?Unknown\b', t)]


# The package's face
def test_the_top_level_is_what_type_checkers_read():
    import llmrec
    block = next(n for n in tree(ROOT/'llmrec'/'__init__.py').body if isinstance(n, ast.If))
    homes = {a.name: n.module for n in block.body for a in n.names}
    assert set(homes) == set(llmrec.__all__) and len(llmrec.__all__) == len(set(llmrec.__all__)) and 50 <= len(homes) <= 80
    assert set(llmrec.__all__) <= set(dir(llmrec))
    for name, home in homes.items():
        assert getattr(llmrec, name) is getattr(importlib.import_module(f'llmrec.{home}'), name)

def test_no_name_has_two_homes():
    "A public name is defined once, and no function has the name of a module."
    import llmrec
    from llmrec._modidx import d
    homes = {n: [m for m, names in d['syms'].items() if f'{m}.{n}' in names] for n in llmrec.__all__}
    assert not {n: m for n, m in homes.items() if len(m) != 1}
    assert not set(llmrec.__all__) & (set(ORDER) | set(architecture.OLD))

def test_modules_are_modules_whatever_was_imported_before():
    "E8: `llmrec.recommend` was a function at first and a module later. One process loads what is not ours; a fork of it for each way in."
    code = """import os, sys
import accelerate, huggingface_hub, matplotlib.pyplot, pandas, scipy.optimize, sklearn.decomposition, torch, transformers
def kinds(first):
    import llmrec
    exec(first)
    return {type(getattr(llmrec, n)).__name__ for n in ("recommend", "pretrain", "explain", "experts", "data")}
assert "llmrec" not in sys.modules
for first in ("", "llmrec.Recommender", "import llmrec.pipeline", "import llmrec.recommend"):
    if not os.fork(): os._exit(kinds(first) != {"module"})
    print(os.wait()[1])"""
    assert python(code).split() == ['0']*4

METHODS = '''fit recommend recommend_from_history recommend_from_text score recommend_cold_start to_table item_filter similar
recommend_diverse recommend_calibrated category_distribution explain counterfactual token_attributions forget update add_items serve
save load summary items data experts gate fusion encoder plan cost get_params to save_pretrained from_pretrained push_to_hub'''.split()

def test_the_recommender_is_whole():
    "E1: every method is there after `from llmrec import Recommender`, in a process that imported nothing else."
    missing = python(f'from llmrec import Recommender\nprint(*[m for m in {METHODS} if not hasattr(Recommender, m)])')
    assert missing == ''

def test_import_is_light():
    "`import llmrec` loads no torch and takes no time: processor time, which other processes cannot lengthen much."
    code = 'import sys, time; t = time.process_time(); import llmrec; t = time.process_time() - t; print(t, "torch" in sys.modules, "pandas" in sys.modules)'
    seconds, torch, pandas = python(code).split()
    assert torch == pandas == 'False' and float(seconds) < .3

def test_the_command_line_answers_before_torch_is_loaded():
    assert python('import sys; from llmrec.cli import main; main(["--version"]); print("torch" in sys.modules)').endswith('False')

def test_the_wheel_carries_the_types():
    code = ('from setuptools import setup; from distutils.core import run_setup\n'
            'd = run_setup("setup.py", stop_after="init"); print(d.package_data["llmrec"], d.packages)')
    assert (ROOT/'llmrec'/'py.typed').exists() and 'py.typed' in python(code)


# Names of the first edition
def old_names():
    from llmrec._deprecated import MOVED
    for module, homes in MOVED.items():
        for home, entries in homes.items():
            for entry in entries.split():
                old, _, new = entry.partition('=')
                yield module, old, home, new or old

def test_every_old_name_leads_somewhere():
    lost = [f'{m}.{old} → {home}.{new}' for m, old, home, new in old_names() if not hasattr(importlib.import_module(f'llmrec.{home}'), new)]
    assert not lost

@pytest.mark.parametrize('said', ['from llmrec.experts import Interactions as x', 'from llmrec.recommend import LMJudge as x',
                                  'from llmrec import price_band as x', 'from llmrec import mmd as x',
                                  'from llmrec.data import read_movielens as x'])
def test_an_old_name_says_the_new_one(said):
    names = {}
    with pytest.warns(DeprecationWarning, match=r'use llmrec\.\w+\.\w+'): exec(said, names)
    assert callable(names['x'])

@pytest.mark.parametrize('module', sorted({m for m, *_ in old_names()} - set(architecture.OLD)))
def test_a_module_of_today_knows_its_old_names(module):
    "`from llmrec.fusion import Recommender` works for one more version."
    here = importlib.import_module(f'llmrec.{module}')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        lost = [old for m, old, *_ in old_names() if m == module and not hasattr(here, old)]
    assert not lost


# What chapters, tests and benchmarks import is there
def python_files():
    yield from sorted((ROOT/'tests').rglob('*.py'))
    yield from sorted((ROOT/'bench').glob('*.py'))
    yield from sorted((ROOT/'nbs').glob('*.ipynb'))

def code_of(path):
    if path.suffix == '.py': return path.read_text(encoding='utf-8')
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n'.join(re.sub(r'^[!%].*', 'pass', ''.join(c['source']), flags=re.M) for c in cells if c['cell_type'] == 'code')

@pytest.mark.parametrize('path', list(python_files()), ids=lambda p: p.name)
def test_what_is_imported_exists(path):
    "Under its name of today, from the module that defines it."
    lost = []
    with warnings.catch_warnings():
        warnings.simplefilter('error', DeprecationWarning)
        for n in ast.walk(ast.parse(code_of(path))):
            if not (isinstance(n, ast.ImportFrom) and (n.module or '').partition('.')[0] == 'llmrec') or n.level: continue
            for a in n.names:
                if a.name == '*': continue
                try: found = hasattr(importlib.import_module(n.module), a.name) or importlib.import_module(f'{n.module}.{a.name}')
                except (ImportError, DeprecationWarning): found = False
                if not found: lost.append(f'line {n.lineno}: {n.module}.{a.name}')
    assert not lost


# Faults of this part
def test_reports_of_two_protocols_are_refused_without_a_permutation_test(monkeypatch):
    "The verdict compared ten thousand permutations only to learn whether two protocols are the same."
    from llmrec import evaluation, metrics, pipeline
    from llmrec.core import InputError
    from llmrec.data import make_synthetic_pair
    from llmrec.preprocess import split_last, split_time
    p = make_synthetic_pair(0, n_users=(40, 40), n_items=(20, 20), n_rows=(5, 5))
    from llmrec.baselines import Popularity
    monkeypatch.setattr(metrics, 'permutation_p', lambda *a, **k: pytest.fail('a permutation test'))
    def report(split):
        s = split(p.target)
        return evaluation.evaluate(Popularity().fit(s.train, p.target.items), s, ks=(10,), items=p.target.items)
    one = report(split_last)
    assert pipeline.transfer_verdict(one, one, 10).difference == 0
    with pytest.raises(InputError, match='cannot be compared'): pipeline.transfer_verdict(one, report(split_time), 10)

def test_a_run_ends_where_no_memory_is_told_and_no_folder_locked(monkeypatch, tmp_path):
    "E25: on Windows there is no `resource` and no `fcntl`; the end of a run must not need them."
    from llmrec import pipeline
    from llmrec.data import make_synthetic_pair
    monkeypatch.setattr(pipeline, 'peak_memory_mb', lambda: None)
    monkeypatch.setattr(pipeline, 'fcntl', None)
    p = make_synthetic_pair(3, n_users=(60, 60), n_items=(30, 30), n_rows=(8, 6), shared=.5)
    pipeline.run_pipeline(p, pipeline.Options(encoder='tfidf'), tmp_path/'out', quiet=True)
    meta = json.loads((tmp_path/'out'/'metrics.json').read_text())
    assert meta['peak_gib'] is None and (tmp_path/'out'/'report.html').exists()

def test_peak_memory_without_resource(monkeypatch):
    from llmrec.core import peak_memory_mb
    monkeypatch.setitem(sys.modules, 'resource', None)
    assert peak_memory_mb() is None or peak_memory_mb() > 0

def test_what_a_page_shows_is_escaped():
    "Headings, texts, tables and names of figures alike; no script, nothing from outside."
    import pandas as pd
    from llmrec.report import report_html
    attack = '<script>alert(1)</script>"\'&'
    page = report_html(attack, [(attack, attack, pd.DataFrame({attack: [attack]}), b'png')])
    assert '<script' not in page and page.count('&lt;script') == 7 and 'alt="&lt;script' in page

def test_options_are_those_of_the_functions():
    "Every parameter of a command is an option with its default."
    import inspect
    from llmrec.cli import COMMANDS, make_parser
    parser = make_parser()
    for name, f in COMMANDS.items():
        wanted = {k: (False if p.annotation is bool else p.default) for k, p in inspect.signature(f).parameters.items()}
        assert vars(parser.parse_args([name])) == {'command': name, **wanted}
    assert parser.parse_args(['run', '--strategy', 'target', '--k-core', '3', '--lam', '.5']).strategy == 'target'


if __name__ == '__main__':      # long cells as they are
    for path in sorted((ROOT/'nbs').glob('[0-4]*.ipynb')):
        if n := len(list(long_cells(path))): print(f'    {path.stem!r}: {n},')
