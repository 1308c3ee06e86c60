"""Writes README.md and the sidebar, builds the site into _docs/ and checks its links, all without Quarto.

The pages go through nbdev's own processors; smalldocs then renders the same `_quarto.yml` that `nbdev-docs` reads.
"""
import argparse, html, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

import nbformat, yaml
from fastcore.nbio import nb2str
from math_core import LatexToMathML
from nbconvert import MarkdownExporter
from nbdev.config import get_config, nbpath2html
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

from motionbench.view.player import link_site

NBS = Path(__file__).resolve().parent
ROOT = NBS.parent
SECTIONS = dict(core="Core", io="IO", physics="Physics", view="View", audit="Audit", retarget="Retarget", amp="AMP", torque="Torque",
                vqvae="VQ-VAE", rollouts="Rollouts", pipeline="Pipeline", cli="Command line", pipelines="Pipelines", tutorials="Tutorials",
                benchmarks="Benchmarks")  # floor by floor, then the pages for people


def sidebar():
    "The text of sidebar.yml: one section per folder in the order of the floors; a notebook beside the folders joins the section of its name."
    pages = {}
    for p in sorted(NBS.rglob("*.ipynb")):
        rel = p.relative_to(NBS)
        if any(part[0] in "._" for part in rel.parts) or rel.name == "index.ipynb": continue
        room = rel.parts[0] if len(rel.parts) > 1 else nbpath2html(rel).stem
        pages.setdefault(room, []).append(rel.as_posix())
    if unknown := pages.keys() - SECTIONS.keys(): raise SystemExit(f"nbs/_site.py: no section for {sorted(unknown)}; known: {', '.join(SECTIONS)}")
    contents = [dict(href="index.ipynb", text="Overview")]
    for room, title in SECTIONS.items():
        match pages.get(room, []):
            case []: pass
            case [page] if "/" not in page: contents.append(dict(href=page, text=title))
            case found: contents.append(dict(section=title, contents=found))
    return yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}, sort_keys=False)


def readme():
    "The text of README.md: index.ipynb through nbdev's processors and nbconvert, its relative links seen from the repository's root."
    drop = ["FrontmatterProc"] + ([] if get_config().doc_host else ["add_links"])
    procs = [p for p in FilterDefaults().procs() if p.__name__ not in drop]
    nb = NBProcessor(NBS/"index.ipynb", procs=procs, rm_directives="quarto", process=True).nb
    nb.cells = [c for c in nb.cells if c.get("source")]
    text, resources = MarkdownExporter().from_notebook_node(nbformat.reads(nb2str(nb), as_version=4))
    if resources["outputs"]: raise SystemExit("nbs/index.ipynb: a picture as output has no place in README.md; save it in nbs/images and show it from a markdown cell")
    text = re.sub(r"(?<=\]\()(?![a-z]+:|[#/])(\.\./)?", lambda m: "" if m[1] else "nbs/", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def for_smalldocs(site):
    "Make the pages in `site` what smalldocs expects: numbers off the names and links, as nbdev does for Quarto, and no option that only Quarto has."
    number = r"(?<![\w-])\d+[a-zA-Z0-9]*_(?=[\w-]+\.ipynb\b)"
    for p in [site/"sidebar.yml", *site.rglob("*.ipynb")]:
        p.write_text(re.sub(number, "", p.read_text(encoding="utf-8")), encoding="utf-8")
    for p in sorted(site.rglob("*.ipynb")):
        page = nbformat.read(p, as_version=4)
        for cell in page.cells:
            if cell.cell_type == "raw": cell.source = re.sub(r"(?m)^output-file:.*\n", "", cell.source)
            for out in cell.get("outputs", []):
                if md := out.get("data", {}).get("text/markdown"):
                    md = md.replace("__main__.", "")  # where nbdev defines the types of a notebook's own signatures
                    if not get_config().git_url: md = re.sub(r"\[source\]\([^)]*\)\{[^}]*\}", "", md)  # no public home yet to link to
                    out["data"]["text/markdown"] = md
        nbformat.write(page, p)
        p.rename(nbpath2html(p).with_suffix(".ipynb"))
    for name in ("_quarto.yml", "nbdev.yml"):
        config = yaml.safe_load((site/name).read_text(encoding="utf-8"))
        config.pop("format-links", None)
        if "format" in config: config["format"] = {"html": {k: v for k, v in config["format"]["html"].items() if k not in ("keep-md", "grid")}}
        (site/name).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def mathml(page):
    "Turn the TeX of an HTML `page` into MathML, which browsers show without a script, a font or a network."
    latex = LatexToMathML()
    def tex(m): return latex.convert_with_local_state(html.unescape(m[2]).strip(), displaystyle=m[1] == "display")
    page = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', tex, page, flags=re.S)
    return re.sub(r'<(?:link|script)[^>]*/katex@[^>]*>(?:</script>)?\s*', "", page)


def build():
    "Build the site into _docs/; 1 if a link leads nowhere, 0 if all is well."
    refresh_quarto_yml()
    pages, docs = proc_nbs(n_workers=2), ROOT/"_docs"
    with tempfile.TemporaryDirectory() as tmp:
        site = Path(tmp)/"site"
        shutil.copytree(pages, site, ignore=shutil.ignore_patterns(docs.name))
        for_smalldocs(site)
        done = subprocess.run([Path(sys.executable).parent/"smalldocs", "render", "--quiet", "--strict", site])
        shutil.rmtree(docs, ignore_errors=True)
        shutil.move(site/docs.name, docs)
    html_pages = sorted(docs.rglob("*.html"))
    for p in html_pages: p.write_text(mathml(p.read_text(encoding="utf-8")), encoding="utf-8")
    for remark in link_site(docs): print(remark)
    print(f"_docs/: {len(html_pages)} pages, " + ("see the warnings above" if done.returncode else "every link leads somewhere"))
    return done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write README.md and the sidebar, build no site")
    args = parser.parse_args()
    os.chdir(ROOT)
    (NBS/"sidebar.yml").write_text(sidebar(), encoding="utf-8")
    (ROOT/"README.md").write_text(readme(), encoding="utf-8")
    return 0 if args.readme else build()


if __name__ == "__main__": sys.exit(main())
