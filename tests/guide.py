"""The generated parts of nbs/how_to_read.qmd, and the order in which chapters lead on; tests/pages.py writes both.

Words and lines are counted in the chapters, seconds come from bench/chapters.csv (`python tests/refresh.py --times` measures them)."""
import csv, json, re
from llms import ROOT, chapter, entries, stem

PAGE = ROOT/'nbs'/'how_to_read.qmd'
WORDS, LINES = 200, 20          # that a reader reads in a minute

PATHS = {
    'An evening': ('what the book is about, and whether it works', '01 03 07 13 17 40'),
    'The article': ('all that the article has, in its order, each step checked', '01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 24 30 31 32 33'),
    'The practitioner': ('your own files, a list that is served, and what to watch', '26 02 04 41 36 23 24 25 21 27 38 22'),
}

# Where a chapter says what it needs and gives; `**Needs:**` and `**Gives:**` will do as well
NEEDS = re.compile(r'\*\*(?:You need|Needs):?\*\*:?\s*(.+?)(?=\\?\s*(?:\n[-*] )?\*\*(?:You get|Gives)\b)', re.S)
GIVES = re.compile(r'\*\*(?:You get|Gives):?\*\*:?\s*(.+?)(?=\\?\n|$)')

def cells(name): return json.loads((ROOT/'nbs'/name).read_text(encoding='utf-8'))['cells']
def text(x): return x if isinstance(x, str) else ''.join(x)

def needs_and_gives(name):
    "What the first text cells of a chapter say, as (needs, gives); None: it does not say."
    head = '\n\n'.join([text(c['source']) for c in cells(name) if c['cell_type'] == 'markdown'][:6])
    return tuple(' '.join(m[1].split()) if m else None for m in (NEEDS.search(head), GIVES.search(head)))

def shown(cell):
    "Lines of code of a cell that a reader reads: nothing hidden, folded, or on the page as a signature only."
    source = text(cell['source'])
    if re.search(r'^#\| *(hide|export\b(?!s)|echo: false|code-fold: true|default_exp)', source, re.M): return 0
    return sum(bool(l.strip()) and not l.startswith('#|') for l in source.split('\n'))

def minutes(name):
    "Minutes to read a chapter, in fives."
    words = sum(len(text(c['source']).split()) for c in cells(name) if c['cell_type'] == 'markdown')
    lines = sum(shown(c) for c in cells(name) if c['cell_type'] == 'code')
    return max(5, 5*round((words/WORDS + lines/LINES)/5))

def seconds():
    "Seconds to run a chapter, by name."
    with (ROOT/'bench'/'chapters.csv').open(encoding='utf-8') as f: return {r['chapter']: int(r['seconds']) for r in csv.DictReader(f)}

def files(): return {name[:2]: name for _, names in entries() for name in names if re.match(r'\d\d_', name)}

def amount(n): return f'{n} s' if n < 100 else f'{round(n/60)} min'

def link(name): return f'[{name[:2]} {chapter(name)[0]}]({name})'

def table(head, rows):
    return '\n'.join(['| ' + ' | '.join(head) + ' |', '|' + '---|'*len(head), *('| ' + ' | '.join(r) + ' |' for r in rows)])

def paths():
    "The paths with their lengths, and the chapters of each."
    known, took, rows, lists = files(), seconds(), [], []
    for name, (what, numbers) in PATHS.items():
        names = [known[n] for n in numbers.split()]
        hours = sum(map(minutes, names))/60
        rows.append([f'**{name}**', what, str(len(names)), f'{hours:.0f} hours', amount(sum(took.get(n[:-6], 0) for n in names))])
        lists.append(f'**{name}**: ' + ' → '.join(link(n) for n in names) + '.')
    how = f'The times to read are estimates: {WORDS} words or {LINES} lines of code a minute.'
    return '\n\n'.join([table(['path', 'what for', 'chapters', 'to read', 'to run'], rows), how, *lists])

def times():
    "What the whole book takes, and which chapters take longest."
    took, known = seconds(), {n[:-6]: n for n in files().values()}
    longest = [n for n in sorted(took, key=took.get, reverse=True) if n in known][:5]
    return (f'All chapters together run for about {round(sum(took.values())/60)} minutes. The longest: '
            + ', '.join(f'{link(known[n])} ({amount(took[n])})' for n in longest) + '.')

def overview():
    "Every chapter: needs, gives, minutes to read, time to run."
    took, out = seconds(), []
    for part, names in entries():
        rows = []
        for name in (n for n in names if re.match(r'\d\d_', n)):
            needs, gives = needs_and_gives(name)
            run = amount(took[name[:-6]]) if name[:-6] in took else '–'
            rows.append([link(name), needs or '–', gives or chapter(name)[1], f'{minutes(name)} min', run])
        if rows: out += [f'### {part}', table(['chapter', 'you need', 'you get', 'to read', 'to run'], rows)]
    return '\n\n'.join(out)

def how_to_read():
    "The page with its generated parts of today."
    page = PAGE.read_text(encoding='utf-8')
    for part in (paths, times, overview):
        mark = f'<!-- {part.__name__}: written by tests/guide.py -->'
        page = re.sub(f'{mark}.*?<!-- end -->', lambda _: f'{mark}\n\n{part()}\n\n<!-- end -->', page, flags=re.S)
    return page

# From chapter to chapter
def order():
    "Pages in reading order."
    return [name for _, names in entries() for name in names if name.endswith('.ipynb')]

def onward(name, md):
    "A chapter's last text, whose `Next:` leads to the next page of the sidebar."
    pages = order()
    if name not in pages[:-1]: return md
    following = pages[pages.index(name) + 1]
    def one(m): return m[0] if m[2] == following else f'Next: [{chapter(following)[0]}]({following})'
    return re.sub(r'Next: \[([^\]]*)\]\((\w+\.ipynb)\)', one, md)
