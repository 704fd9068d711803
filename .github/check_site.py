"""Is the rendered site whole? `python .github/check_site.py FOLDER [LOG]`

Every link and anchor inside the site leads somewhere, no page asks another host for anything, no Markdown is left in the text, every
picture has an alternative text, no page is too heavy, and the log of the render has no warning. Standard library only."""
import gzip, re, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LIMIT = 1200        # kB of one page on a first visit: compressed, with its pictures, styles and scripts

# Harmless messages, each with its reason; a warning that is none of them is an error.
KNOWN = ()

class Page(HTMLParser):
    "Links, requests, places and visible text of one page."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.links, self.requests, self.places, self.bare, self.words, self.stack = [], [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag not in ('img', 'link', 'meta', 'br', 'hr', 'input', 'source', 'wbr', 'col'): self.stack.append(tag)
        self.places |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag == 'img' and not (a.get('alt') or a.get('role') == 'presentation'): self.bare.append(a.get('src', '?'))
        asked = tag in ('script', 'img', 'iframe', 'source', 'video', 'audio', 'embed') and a.get('src')
        rel = set(a.get('rel', '').split())
        if tag == 'link' and rel & {'stylesheet', 'icon', 'preload', 'modulepreload', 'prefetch', 'preconnect', 'dns-prefetch', 'manifest'}:
            asked = a.get('href')
        if asked: self.requests.append(asked)

    def handle_endtag(self, tag):
        if tag in self.stack:
            while self.stack and self.stack.pop() != tag: pass

    def handle_data(self, data):
        if 'style' in self.stack: self.requests += re.findall(r'(?:@import\s+(?:url\()?|url\()["\']?([^"\')\s;]+)', data)
        elif 'script' not in self.stack: self.words.append((data, bool({'pre', 'code'} & set(self.stack))))

def away(url): return bool(urlsplit(url).netloc)

def target(url, name):
    "File and place that a link inside the site leads to; None where it leaves the site."
    parts = urlsplit(url)
    if parts.scheme or parts.netloc: return None
    path = unquote(parts.path).removeprefix('./') or name
    return (path + 'index.html' if path.endswith('/') else path), unquote(parts.fragment)

def css_requests(folder):
    "What style sheets ask other hosts for."
    for p in sorted(folder.rglob('*.css')):
        for url in re.findall(r'(?:@import\s+(?:url\()?|url\()["\']?(https?:|//)([^"\')\s;]+)', p.read_text(encoding='utf-8', errors='replace')):
            yield f'{p.relative_to(folder)} asks {"".join(url)[:80]}'

def check_page(name, page, folder, places):
    "Faults of one page, a sentence each."
    found = [f'asks another host: {u[:100]}' for u in page.requests if away(u)]
    found += [f'picture without alternative text: {u[:60]}' for u in page.bare]
    for words, code in page.words:
        for m in re.finditer(r'\]\((?:https?://|[\w./-]+\.(?:html|ipynb|qmd))[^)\s]*\)', words):
            if not code or '](https://' in m[0]: found.append(f'Markdown in the text: …{words[max(0, m.start() - 30):m.end()][:120]}')
        if '?@' in words and not code: found.append(f'reference that leads nowhere: {words[:80]}')
    if name == '404.html': return found             # its links are absolute
    for url in page.links + [u for u in page.requests if not away(u)]:
        to = target(url, name)
        if to is None: continue
        if not (folder/to[0]).exists(): found.append(f'link to {url}: no such file')
        elif to[1] and to[0] in places and to[1] not in places[to[0]]: found.append(f'link to {url}: no such place')
    return found

def check_markdown(folder):
    "Dead links of the pages for language models."
    for p in sorted(folder.glob('*.html.md')):
        text = re.sub(r'```.*?```|`[^`\n]*`', '', p.read_text(encoding='utf-8'), flags=re.S)
        for url in re.findall(r'\]\(([^)\s]+)\)', text):
            path = unquote(urlsplit(url).path)
            if path and not urlsplit(url).scheme and not (folder/path).exists(): yield f'{p.name}: link to {url}: no such file'

def warnings(log):
    "Lines of the render's log that are warnings or errors."
    plain = re.sub(r'\x1b\[[0-9;]*m', '', log)
    lines = [line for line in plain.splitlines() if re.search(r'\b(WARN|WARNING|ERROR|UserWarning)\b', line)]
    return [line.strip() for line in lines if not any(k in line for k in KNOWN)]

def weight(folder, name, page):
    "kB of a page as it travels on a first visit: compressed, with all it asks for."
    own = [target(u, name)[0] for u in dict.fromkeys(page.requests) if not away(u) and not u.startswith('data:')]
    size = lambda f: len(f.read_bytes() if f.suffix in ('.png', '.jpg', '.woff') else gzip.compress(f.read_bytes()))
    return sum(size(f) for f in [folder/name, *(folder/u for u in own)] if f.is_file())/1024

def check(folder, log=''):
    "(faults, kB by page) of a rendered site."
    pages = {p.name: Page(p.read_text(encoding='utf-8')) for p in sorted(folder.glob('*.html'))}
    places = {name: page.places for name, page in pages.items()}
    found = [f'{name}: {f}' for name, page in pages.items() for f in dict.fromkeys(check_page(name, page, folder, places))]
    found += [*css_requests(folder), *check_markdown(folder), *(f'render: {w}' for w in warnings(log))]
    sizes = {name: weight(folder, name, page) for name, page in pages.items()}
    found += [f'{name}: {kb:.0f} kB, more than {LIMIT}' for name, kb in sizes.items() if kb > LIMIT]
    return found if pages else [f'{folder}: no page'], sizes

def main(folder, log=None):
    found, sizes = check(Path(folder), Path(log).read_text(encoding='utf-8', errors='replace') if log else '')
    for name, kb in sorted(sizes.items(), key=lambda x: -x[1]): print(f'{kb:7.0f} kB  {name}')
    if sizes: print(f'{sum(sizes.values())/len(sizes):7.0f} kB  a page on average, compressed, of {len(sizes)} pages')
    for f in found: print(f'::error::{f}')
    sys.exit(f'{len(found)} faults' if found else 0)


if __name__ == '__main__': main(*sys.argv[1:3])
