"""bench/ as a room one can live in: one name for one set, a line for each script, a stamp for each row, and no number of the index without a table."""
import ast, json, re, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT/'bench'
sys.path.insert(0, str(BENCH))
import common

STAMPS = pd.read_csv(BENCH/'stamps.csv')
CSVS = sorted(p.name for p in BENCH.glob('*.csv') if p.name != 'stamps.csv')
SCRIPTS = sorted(p.name for p in BENCH.glob('*.py') if p.name != 'common.py')
README = (BENCH/'README.md').read_text(encoding='utf-8')
LINES = {m[1]: m[0] for m in re.finditer(r'^\| `(\w+\.py)` \|.*$', README, re.M)}
CHAPTERS = {p.name: json.loads(p.read_text(encoding='utf-8')) for p in sorted((ROOT/'nbs').glob('*.ipynb'))}

def code(chapter): return '\n'.join(''.join(c['source']) for c in CHAPTERS[chapter]['cells'] if c['cell_type'] == 'code')

def tables(chapter): return sorted(set(re.findall(r'bench/(\w+\.csv)', code(chapter))) - {'stamps.csv'})

READERS = [name for name in CHAPTERS if tables(name)]

# a line for each script
@pytest.mark.parametrize('name', SCRIPTS)
def test_each_script_has_a_line(name):
    cells = [c.strip() for c in LINES[name].strip('|').split('|')]
    assert len(cells) == 6 and cells[1].endswith('?') and cells[2].startswith(f'`python bench/{name}')
    assert len(LINES) == len(SCRIPTS)

@pytest.mark.parametrize('name', CSVS)
def test_each_table_is_named_with_its_readers(name):
    "The chapters that the README names are those that read the table."
    readers = {c.split('_')[0].removesuffix('.ipynb') for c in READERS if name in tables(c)}
    line = next((x for x in README.splitlines() if f'`{name}`' in x), '')
    said = line.rstrip('| ').split('|')[-1] if line.startswith('|') else line.split('(')[1].split(')')[0]
    assert set(re.findall(r'\b\d\d\b|\bindex\b', said)) == readers

# one name for one set
def test_scripts_share_their_sets():
    "Names of sets in the tables are those of common.py; no script loads one of them in its own way."
    names = {*common.sets('.'), 'movielens', 'journey'}
    for table in ('unseen.csv', 'gate.csv', 'peers.csv', 'confidence.csv', 'pauses.csv'):
        if not (BENCH/table).exists(): continue
        for name in pd.read_csv(BENCH/table)['set'].unique(): assert name.partition('-k')[0] in names, (table, name)
    for script in ('unseen.py', 'gate.py', 'peers.py', 'confidence.py', 'pauses.py'):
        defined = {n.name for n in ast.walk(ast.parse((BENCH/script).read_text(encoding='utf-8'))) if isinstance(n, ast.FunctionDef)}
        assert not defined & {'sets', 'read', 'few_users', 'genre', 'split_last'}, script

def shop(folder):
    "A set in the form of DIR, with one user too short for a test."
    folder.mkdir(parents=True)
    rows = [(u, i, 10*u + i) for u in range(6) for i in range(u % 2, 5)] + [(6, 0, 1)]
    log = pd.DataFrame(rows, columns=['user_id', 'item_id', 'timestamp'])
    log['order'] = log.groupby('user_id').cumcount()
    log.to_csv(folder/'interactions.csv.gz', index=False)
    pd.DataFrame(dict(item_id=range(5), title=list('abcde'))).to_csv(folder/'items.csv.gz', index=False)

def test_a_set_is_split_as_its_docstring_says(tmp_path):
    shop(tmp_path/'movietweetings_100k')
    target, split, source, gone = common.load(tmp_path, 'tweets', 100)
    assert source is None and gone is None and (split.test['item'] == 4).all() and (split.valid['item'] == 3).all()
    thin = common.load(tmp_path, 'tweets-k1', 100)
    assert (thin[1].train.groupby('user').size() == 1).all()
    assert len(thin[3]) == len(split.train) - len(thin[1].train)          # what was taken away is known, and no candidate
    assert thin[1].test.equals(split.test) and thin[1].valid.equals(split.valid)

def test_masks_and_ties_are_the_same_for_models_and_lists(tmp_path):
    "What was taken away is no candidate for a model, nor for lists that come from a library."
    shop(tmp_path/'movietweetings_100k')
    target, split, _, gone = common.load(tmp_path, 'tweets-k1', 100)
    judge = common.judge_by(target, split, gone)
    class Constant:
        items = target.items['item'].to_numpy()
        def score(self, users): return np.tile([9., 8., 7., 6., 5.], (len(users), 1))
    lists = {user: list(Constant.items) for user in split.test['user']}
    model, listed = judge(Constant()), judge(lists)
    alone, after_one_other = 1, 1/np.log2(3)                              # users of even number had all else, the others lack item 0
    assert model['ndcg@10'] == listed['ndcg@10'] == pytest.approx((alone + after_one_other)/2)
    assert model.bar == {} and model.protocol['seen'] == listed.protocol['seen']

# results that go on
def test_a_table_grows_and_is_stamped(tmp_path):
    table = common.Table(tmp_path/'x.csv', ('set', 'system'))
    table.add([dict(set='a', system='s', ndcg=.1), dict(set='a', system='t', ndcg=.2)])
    again = common.Table(tmp_path/'x.csv', ('set', 'system'))
    assert again.has(set='a', system='s') and not again.has(set='b', system='s')
    again.add([dict(set='a', system='s', ndcg=.3)])
    rows = pd.read_csv(tmp_path/'x.csv').set_index('system')
    assert len(rows) == 2 and rows.ndcg['s'] == .3 and rows['commit'].notna().all()

def test_results_know_their_commit(tmp_path, monkeypatch):
    from types import SimpleNamespace
    monkeypatch.setattr(common, 'commit', lambda: 'abc1234')
    cells = pd.DataFrame(dict(user='all', item=['all', '0'], rows=[2, 1]) | {'recall@10': [.5, .25]})
    values = pd.DataFrame({'ndcg@10': [.5, 0.]}, index=['u', 'v'])
    class Report(SimpleNamespace):
        def __getitem__(self, metric): return .5
    results = common.Results(tmp_path)
    results.add('a<b', 'fast', Report(slices=cells, per_user=values), 1.)
    found = results.read()[0]
    assert found['row']['commit'] == 'abc1234' and found['row']['recall [0]'] == .25 and results.has('a<b', 'fast')
    assert found['users'] == ['u', 'v'] and 'numpy' in found['versions']

# stamps
@pytest.mark.parametrize('name', CSVS)
def test_each_row_has_a_stamp(name):
    "Commit and versions, or what git knows, for as many rows as there are."
    stamps, rows = STAMPS[STAMPS['file'] == name], pd.read_csv(BENCH/name, dtype=dict(commit=str))
    assert stamps['rows'].sum() == len(rows), f'python bench/common.py --stamps'
    assert stamps['commit'].str.fullmatch(r'[0-9a-f]{7}\+?|not known').all() and stamps[['how', 'versions']].notna().all().all()
    if 'commit' in rows: assert set(rows['commit'].dropna()) == set(stamps[stamps['how'] == 'stamped']['commit'])

def test_no_stamp_without_a_table(): assert set(STAMPS['file']) == set(CSVS)

@pytest.mark.parametrize('chapter', READERS)
def test_no_chapter_mixes_commits_without_saying_so(chapter):
    "Where the tables of a chapter come from more than one commit, it shows bench/stamps.csv or says so."
    commits = set(STAMPS[STAMPS['file'].isin(tables(chapter))]['commit'])
    said = '\n'.join(''.join(c['source']) for c in CHAPTERS[chapter]['cells'])
    assert len(commits) <= 1 or 'bench/stamps.csv' in said, (chapter, commits)

# the index
INDEX = CHAPTERS['index.ipynb']
ALLOWED = {'llmrec 0', 'Apache-2.0', '127.0.0.1:8000'}

def prose(text):
    "Text without what is no number of a result: code, links, paths, sections of the article, maps of chapters, years of works."
    text = re.sub(r'```.*?```', '', text, flags=re.S)
    text = re.sub(r'`[^`]*`|\]\([^)]*\)|\{[^}]*\}|https?://\S+', '', text)
    text = re.sub(r'^\|.*\|$', '', text, flags=re.M)
    text = re.sub(r'§+\s*[\d.]+(?:[–,-]\s*[\d.]+)*|Apache-2\.0|NDCG@10|recall@10|A–H', '', text)
    return text

def test_no_number_of_the_index_is_typed():
    "What the index says in words has no digits: numbers come from cells that compute them."
    for cell in INDEX['cells']:
        if cell['cell_type'] == 'markdown':
            assert not re.findall(r'\d[\d.,%]*', prose(''.join(cell['source']))), ''.join(cell['source'])[:200]

def shown(cell):
    "Texts that a cell shows."
    return [''.join(o['data']['text/markdown']) for o in cell.get('outputs', []) if 'text/markdown' in o.get('data', {})]

def unlinked(text): return re.sub(r'\]\([^)]*\)', ']', text).strip()

def test_each_number_of_the_index_is_that_of_the_tables(monkeypatch):
    "The computed sentences, run anew on today's bench/unseen.csv, are those that are stored, and those of the README."
    from IPython.core.interactiveshell import InteractiveShell
    monkeypatch.chdir(ROOT/'nbs')
    shell, compared = InteractiveShell(), 0
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    for cell in INDEX['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or 'from llmrec' in text or 'savefig' in text or 'rec.' in text or 'compare(' in text: continue
        if not any(word in text for word in ('read_csv', 'Markdown', 'ours', 'bar')): continue
        ran = shell.run_cell(text)
        ran.raise_error()
        if not shown(cell): continue
        compared += 1
        assert shown(cell) == [ran.result.data], 'python tests/refresh.py index'
        assert unlinked(ran.result.data) in unlinked(readme)
    assert compared == 3

def test_computed_text_of_the_index_types_no_result():
    "In the cells that write sentences, a number in quotes is no result: it is 95 % of an interval, or the 10 of a metric's name."
    for cell in INDEX['cells']:
        if cell['cell_type'] != 'code' or 'Markdown(' not in ''.join(cell['source']): continue
        nodes = list(ast.walk(ast.parse(re.sub(r'^#\|.*$', '', ''.join(cell['source']), flags=re.M))))
        formats = {id(x) for n in nodes if isinstance(n, ast.FormattedValue) and n.format_spec for x in ast.walk(n.format_spec)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats:
                assert not re.findall(r'\d[\d.,]*', re.sub(r'NDCG@10|95 %|1–4|food4|-k\d|\[[^]]*\]\([^)]*\)', '', prose(node.value))), node.value

# chapter 40
@pytest.mark.parametrize('what', ['peers.csv', 'unseen.csv'])
def test_results_read_no_table_of_the_first_edition(what):
    assert tables('40_results.ipynb') == ['pauses.csv', 'peers.csv', 'unseen.csv'] and what in CSVS

def test_each_section_of_the_results_has_its_parts():
    "Question, figure, finding, what it does not show."
    parts = re.split(r'\n## ', '\n'.join(''.join(c['source']) for c in CHAPTERS['40_results.ipynb']['cells']))
    asked = [p for p in parts if '**Finding.**' in p]
    assert len(asked) >= 6 and all('What this does not show' in p for p in asked)

# pauses
def test_pauses_are_since_the_last_rating_and_each_has_its_band():
    import pauses
    from llmrec.preprocess import Split
    rows = lambda *r: pd.DataFrame(r, columns=['user', 'item', 'time'])
    split = Split(rows(('a', 1, 0), ('b', 1, 0), ('c', 1, 5), ('d', 1, 0)), rows(('a', 2, 10), ('d', 2, 90000)),
                  rows(('a', 3, 10), ('b', 3, 60), ('c', 3, 66), ('d', 3, 90000 + 86401), ('e', 1, 7)), {})
    found = pauses.pauses(split)
    assert found.to_dict() == {'a': 0, 'b': 60, 'c': 61, 'd': 86401}            # 'e' has no rating before
    assert pauses.band(found).to_dict() == {'a': 'same second', 'b': 'within a minute', 'c': 'within a day', 'd': 'later'}

def test_bands_of_few_are_no_tests():
    import pauses
    rows = pd.DataFrame(dict(pause=['later', 'later', 'all', 'same second'], n=[49, 50, 900, 60], p=[.001, .01, .001, np.nan]))
    found = pauses.corrected(rows)
    assert found.p_holm.notna().tolist() == [False, True, False, False] and found.p_holm[1] == .01

def test_no_data_of_a_bench_is_committed():
    "Generated logs belong into temporary folders: what git keeps is text of ours and tables of results."
    if not (ROOT/'.git').exists(): pytest.skip('no checkout')
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')
    large = {n: (ROOT/n).stat().st_size for n in names if n and (ROOT/n).is_file() and (ROOT/n).stat().st_size > 2**20}
    assert not large, large
