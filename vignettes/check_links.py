"""Follow every link of the built site that stays inside it: the page has to exist, and the place on the page."""

import re
import sys
from html import unescape
from os.path import normpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

site = Path(sys.argv[1])
files = {str(path) for path in site.rglob("*")}
pages = {path: Path(path).read_text() for path in files if path.endswith(".html")}
places = {path: {"", *re.findall(r' (?:id|name)="(.*?)"', text)} for path, text in pages.items()}
broken = []
for path, text in pages.items():
    if "_static" in path:  # templates of the theme
        continue
    for link in map(unescape, set(re.findall(r' (?:href|src)="(.*?)"', text))):
        url = urlsplit(link)
        target = normpath(Path(path).parent / unquote(url.path)) if url.path else path
        there = target in files and unquote(url.fragment) in places.get(target, {url.fragment})
        if not (url.scheme or url.netloc or there):
            broken.append(f"{path}: {link}")
sys.exit("\n".join(broken) or 0)
