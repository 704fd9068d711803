"""The book speaks the language of its field, in short paragraphs, and each chapter says what it needs and gives.

WORDS has the words to avoid and what is written instead. Code, formulas and addresses do not count; `python tests/test_words.py`
lists all that is found."""
import ast, json, re
from pathlib import Path
import pytest
from exercises import blocks
from guide import GIVES, NEEDS, needs_and_gives

ROOT = Path(__file__).resolve().parents[1]
NBS = {p.name: json.loads(p.read_text(encoding='utf-8')) for p in sorted((ROOT/'nbs').glob('*.ipynb'))}
TEACHING = [n for n in NBS if re.match('[0-4]', n)]
DOCS = [ROOT/n for n in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'nbs/how_to_read.qmd', 'nbs/reading_list.qmd', 'nbs/404.qmd')]
MODULES = [p for p in sorted((ROOT/'llmrec').glob('[a-z]*.py')) if p.stem not in ('experts', 'recommend')]
LONGEST = 80    # words a paragraph

# pattern: what to write instead
WORDS = {
    r'people|persons?|somebody|newcomers?|strangers?|nobody|she|hers?': 'user(s), they; cold-start or unseen user; non-member',
    r'tastes?|company': 'preference; collaborative',
    r'foretell\w*|foretold|tells(?![^.,;]{0,30} apart)|told (?:by|from)|speaks? for|has a say|silent|loud|deaf|hears?|votes?':
        'predict; estimated from; is informative about; gives constant scores; weight',
    r"(?:gate's|fusion's) lessons?|lessons? of the (?:gate|fusion)|thrift|gate bends|bends (?:less|more)|leash|earns? (?:its|their) place":
        "the gate's training set; L1 or L2 penalty; constraint",
    r'(?:naive|literal|slow|unexported|vectorised) twins?': 'reference implementation; "from-scratch twin" is the model without source',
    r'roads?|travels?|shelf|shelves|sittings?|wish(?:es)?|(?:the|its|our|these) closed forms':
        'pipeline; recommendation list; session; text query; closed-form model',
    r'(?:the|its|their|a|small|large|less|more|of|and) spread': 'standard deviation; partially whitened',
    r'(?:the|deli|repeat) counters?': 'repeat purchases; step index',
    r'rivals?|peers|of the field': 'baselines, libraries',
    r"proven|(?:effect|difference|gain|nothing) that shows|chance (?:would )?explains?|(?:is|are|it|call(?:ed)?) a tie":
        '(not) statistically significant, with the interval',
    r'by lot|luck|dear|busiest|happiest': 'at random; variance over seeds; expensive; most frequent; fastest',
    r'(?:after|before|until|up to|at) (?:the|a|that|one) moment|(?:before|after|at) (?:the|a) cut': 'time stamp; split time',
    r'filled (?:by )?\d+|(?:users?|who|they|thousands) (?:took|takes?)|(?:items?|nobody) (?:has )?taken|taken by (?:a |the )?users?':
        'density; interact with, consume, buy, rate',
}
# In chapters about interactions; a row of a table or a matrix is a row, so internals and the chapters on files are free.
ROWS = {r'(?:test|target|source|training|held-out|hidden) rows?|(?:no|few|many) rows(?! of)|'
        r'rows? (?:a|per|of) (?:user|person|household|customer)s?|\d rows?': 'interaction(s)'}
FILES = ('01', '02', '26', '41', '5', '6', '9', 'i')

# A word that means something else where it stands: (chapter, text around it)
MEANT = [
    ('08_transfer', 'deli counter'), ('11_finetune', 'deli counter'), ('11_finetune', 'one counter'), # of a supermarket
    ('30_ecommerce', 'shelf price'),               # the price without a promotion
    ('22_privacy', 'gives a person'),              # the words of a law
]

def compiled(words): return [(re.compile(rf'\b(?:{p})\b', re.I), instead) for p, instead in words.items()]

def text(x): return x if isinstance(x, str) else ''.join(x)

def markdown(name): return [text(c['source']) for c in NBS[name]['cells'] if c['cell_type'] == 'markdown']

def prose(md):
    "Markdown without code, formulas, addresses, titles of papers and quotations."
    md = re.sub(r'<!--.*?-->|```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|“[^”]*”|"[^"\n]*"|\{#[^}]*\}|@eq-[\w-]+', ' ', md, flags=re.S)
    md = re.sub(r'\[[^\]\n]*\]\((?:https?:|references)[^)\n]*\)|\]\([^)\n]*\)|\*[^*\n]+\*(?=,? \d{4})', ' ', md)
    return re.sub(r'^(?:title|description): |[*_]', '', md, flags=re.M)

def found(md, where, words):
    "Words to avoid in a text: (word, its surroundings, what to write)."
    out = []
    for pattern, instead in words:
        for m in pattern.finditer(md):
            around = md[max(0, m.start() - 40):m.end() + 40].replace('\n', ' ')
            if any(where.startswith(chapter) and phrase in around for chapter, phrase in MEANT): continue
            out.append(f'{where}: "{m[0]}" in "…{around}…": write {instead}')
    return out

def docstrings(path):
    "Docstrings of a module's names, and of itself."
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (doc := ast.get_docstring(n)): yield doc

def words_for(name): return compiled(WORDS if name.startswith(FILES) else WORDS | ROWS)

def words_of_chapter(name):
    md = '\n\n'.join(markdown(name))
    out = found(prose(md), name[:-6], words_for(name))
    twin = re.search(r'(?<!from-scratch )\btwins?\b', prose(md))
    if twin and 'from-scratch twin' not in md: out.append(f'{name}: "twin" without "from-scratch twin": write reference implementation')
    return out

def words_of_docstrings(path):
    return [x for doc in docstrings(path) for x in found(prose(doc), path.stem, compiled(WORDS))]

def paragraphs(md):
    "Paragraphs and list items that a reader reads in one go: no code, tables, headings or formulas."
    md = re.sub(r'```.*?```|<!--.*?-->', '\n\n', md, flags=re.S)
    for block in re.split(r'\n\s*\n|\$\$.*?\$\$(?: *\{#[^}]*\})?|\n(?=[-*] |\d+\. )', md, flags=re.S):
        lines = [l for l in block.split('\n') if not re.match(r'\s*(\||#|</?\w|:::|---)', l)]
        plain = re.sub(r'\]\([^)\n]*\)', ']', ' '.join(lines))
        if plain.strip(): yield re.sub(r'`[^`\n]*`|\$[^$\n]*\$', 'x', plain)

def long_paragraphs(md): return [f'{len(p.split())} words: {p.strip()[:70]}…' for p in paragraphs(md) if len(p.split()) > LONGEST]

def solutions(name):
    "Code of the folded solutions, block by block."
    return blocks('\n'.join(markdown(name)))

def form(name):
    "What a teaching chapter lacks."
    md = markdown(name)
    needs, gives = needs_and_gives(name)
    if not needs or not gives: yield 'no two lines on what it needs and gives: **You need** … **You get** … in its first cells'
    heads = [m.strip() for m in md if m.startswith('## ')]
    if '## Summary' not in heads: yield 'no summary'
    if '## Exercises' not in heads: yield 'no exercises'
    asked, _, solved = md[-1].partition('<details>')
    n = [len(re.findall(r'^\d+\. ', part, re.M)) for part in (asked, solved)]
    if n[0] < 3 or n[0] != n[1]: yield f'{n[0]} exercises with {n[1]} folded solutions: expected three or more, each solved'
    if not re.search('experiment', asked, re.I): yield 'no exercise that is an experiment, and says so'
    if not solutions(name): yield 'no solution with code (```python in <details>), which the tests would run'


@pytest.mark.parametrize('name', NBS)
def test_words_of_chapters(name): assert not words_of_chapter(name)

@pytest.mark.parametrize('path', [p for p in DOCS if p.exists()], ids=lambda p: p.name)
def test_words_of_documents(path): assert not found(prose(path.read_text(encoding='utf-8')), path.name, compiled(WORDS))

@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_words_of_docstrings(path): assert not words_of_docstrings(path)

@pytest.mark.parametrize('name', NBS)
def test_paragraphs_are_short(name):
    assert not [p for md in markdown(name) for p in long_paragraphs(md)]

@pytest.mark.parametrize('name', TEACHING)
def test_teaching_chapters_have_their_form(name): assert not list(form(name))

@pytest.mark.parametrize('name', [n for n in NBS if solutions(n)])
def test_solutions_are_python(name):
    "tests/test_notebooks.py runs them after the chapter's cells."
    for block in solutions(name): ast.parse(block)

def test_what_the_list_finds():
    "The rules themselves, on small texts."
    def here(s, name='17_x.ipynb'): return [x.split('"')[1] for x in found(prose(s), name[:-6], words_for(name))]
    assert here('People whose taste is foretold; few rows, 3 rows') == ['People', 'taste', 'foretold', 'few rows', '3 rows']
    assert here('rows of users; no rows of $X$; it tells; tells them apart') == ['tells', 'rows of users']
    assert not here('a few rows; 3 rows', '51_readers.ipynb') and not here('rows of $X$; personal; a closed form; shown')
    assert not here('`people`, $she$, [x](people.html), @eq-votes and ```\nnobody\n```')
    assert here('the deli counter', '08_transfer.ipynb') == [] and here('the counter of items') == ['the counter']
    assert list(paragraphs('a b\n\n| c | d |\n\n$$e$$ {#eq-x}\n\n- f\n- g\n\n```\nh\n```\n## i')) == ['a b', '- f', '- g']
    assert long_paragraphs('word '*81) and not long_paragraphs('word '*80) and not long_paragraphs('- ' + 'word '*60 + '\n- ' + 'word '*60)
    assert NEEDS.search('**Needs:** pandas.\\\n**Gives:** a log.')[1] == 'pandas.' and GIVES.search('**You get** a\\\nb')[1] == 'a'
    assert NEEDS.search('**You need** [x](y) and z. **You get** w')[1] == '[x](y) and z.'


if __name__ == '__main__':
    for name in NBS:
        said = [*words_of_chapter(name), *[f'{name[:-6]}: {p}' for md in markdown(name) for p in long_paragraphs(md)]]
        print(*said, *([f'{name[:-6]}: {x}' for x in form(name)] if name in TEACHING else []), sep='\n', end='\n' if said else '')
    for path in MODULES: print(*words_of_docstrings(path), sep='\n')
    for path in DOCS:
        if path.exists(): print(*found(prose(path.read_text(encoding='utf-8')), path.name, compiled(WORDS)), sep='\n')
