"The repository tells one story: notebooks and modules, settings and package, README and index, pins and ranges."
import ast, configparser, importlib.util, re, shutil, subprocess, sys, tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import nbformat, pytest, yaml
from math_core import LatexToMathML
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import motionbench

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
by_path = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT/"nbs").as_posix())


def settings():
    config = configparser.ConfigParser()
    config.read(ROOT/"settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def pins():
    "The exact versions of constraints.txt by name; a name has several where they differ by marker."
    found = {}
    for line in (ROOT/"constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            req = Requirement(line)
            found.setdefault(canonicalize_name(req.name), []).append(req)
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "What nbdev reads, in a folder of its own."
    tmp = tmp_path_factory.mktemp("project")
    for name in ("nbs", "motionbench"): shutil.copytree(ROOT/name, tmp/name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "assets"))
    for name in ("pyproject.toml", "settings.ini", "README.md"): shutil.copy(ROOT/name, tmp)
    return tmp


@pytest.fixture(scope="module")
def site():
    "The script that makes README.md, sidebar and site, as a module."
    spec = importlib.util.spec_from_file_location("_site", ROOT/"nbs/_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_modules_match_notebooks(copy):
    subprocess.run([BIN/"nbdev-export"], cwd=copy, check=True)
    here, there = ({p.relative_to(root): p.read_text() for p in (root/"motionbench").rglob("*.py")} for root in (ROOT, copy))
    stale = [str(p) for p in here.keys() | there.keys() if here.get(p) != there.get(p)]
    assert not stale, f"run nbdev-export: {stale}"


def test_notebooks_are_clean(copy):
    subprocess.run([BIN/"nbdev-clean"], cwd=copy, check=True)
    dirty = [str(p.relative_to(ROOT)) for p in NOTEBOOKS if p.read_text() != (copy/p.relative_to(ROOT)).read_text()]
    assert not dirty, f"run nbdev-clean: {dirty}"


@by_path
def test_notebook_is_valid(path): nbformat.validate(nbformat.read(path, as_version=4))


@by_path
def test_the_introduction_is_not_in_the_first_cell(path):
    "nbdev makes the page's title and description of the first cell, and leaves out whatever else stands there."
    first = nbformat.read(path, as_version=4).cells[0]
    rest = [line for line in first.source.splitlines() if line.strip() and not re.match(r"# |>|- \w+:", line)]
    assert first.cell_type != "markdown" or not rest, "put this into a cell of its own: " + rest[0]


@by_path
def test_imports_stand_in_cells_of_their_own(path):
    "The build of the docs runs every cell that imports, and no other example; one that does more would fail there."
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code" or re.match(r"#\|\s*(exporti?|exports|eval: *false)\b", cell.source) or cell.source.startswith("%"): continue
        tree = ast.parse(re.sub(r"(?m)^[%!].*$", "", cell.source))
        imports = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree))
        assert not imports or all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body), cell.source


@by_path
def test_formulas_can_be_shown(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "markdown": continue
        for formula in re.findall(r"\$\$(.+?)\$\$", cell.source, flags=re.S):
            assert not re.search(r"\\\\[A-Za-z]{2}", formula), f"backslash twice: {formula}"
            LatexToMathML().convert_with_local_state(formula, displaystyle=True)


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if "pipelines" in p.parts], ids=lambda p: p.name)
def test_pipeline_notebook_has_one_parameters_cell(path):
    tagged = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    assert [c.cell_type for c in tagged] == ["code"]


def test_versions_and_names_agree():
    project = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    assert settings()["version"] == motionbench.__version__ == version("motionbench")
    assert settings()["lib_name"] == project["name"] == motionbench.__name__


def test_installed_requirements_are_those_of_the_settings():
    wanted = settings()["requirements"].split()
    installed = [Requirement(r) for r in distribution("motionbench").requires]
    assert {str(Requirement(r)) for r in wanted} == {str(r) for r in installed if r.marker is None}


def test_readme_is_made_from_the_index(site):
    assert (ROOT/"README.md").read_text() == site.readme(), "run make docs"
    assert "FILL-IN" not in (ROOT/"README.md").read_text()


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT/"README.md").read_text())
    assert [link for link in links if not (ROOT/link).exists()] == []


def test_sidebar_lists_every_notebook(site):
    assert (ROOT/"nbs/sidebar.yml").read_text() == site.sidebar(), "run make docs"


def test_environment_has_no_second_list_of_dependencies():
    env = yaml.safe_load((ROOT/"environment.yml").read_text())
    python, pip, from_pip = env["dependencies"]
    assert re.fullmatch(r"python=3\.1[123]", python) and pip == "pip"
    assert from_pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_constraints_are_exact_and_within_the_settings():
    config = settings()
    for reqs in pins().values():
        for req in reqs: assert re.fullmatch(r"==[^+*,]+", str(req.specifier)), req
    for req in map(Requirement, " ".join(config[k] for k in config if k.endswith("requirements")).split()):
        for pin in pins()[canonicalize_name(req.name)]: assert req.specifier.contains(str(pin.specifier)[2:]), (req, pin)


def test_constraints_cover_all_that_is_installed_for_us():
    "Follows the requirements of motionbench[dev] through the installed packages; the CUDA parts of torch are the platform's own."
    todo, seen = [("motionbench", frozenset(["dev"]))], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen: continue
        seen.add((name, extras))
        try: requires = distribution(name).requires or []
        except PackageNotFoundError: continue
        for req in map(Requirement, requires):
            if req.marker is None or any(req.marker.evaluate({"extra": e}) for e in extras | {""}):
                todo.append((canonicalize_name(req.name), frozenset(req.extras)))
    names = {name for name, _ in seen if not re.match(r"motionbench|nvidia-|cuda-|triton", name)}
    assert names - pins().keys() == set()


def test_tracked_files_name_no_machine_and_no_registry():
    if not (ROOT/".git").exists(): pytest.skip("not a git clone")
    tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    machine = re.compile(r"(?<![\w.~])/(?:root|work|home|Users)/\w|\b[\w-]*(?:pypi|pythonhosted|npmjs|anaconda)\.(?:org|com)\b", re.I)
    found = []
    for name in filter(None, tracked):
        path = ROOT/name
        if not path.is_file() or path == Path(__file__) or path.suffix in (".png", ".gif", ".npz", ".stl"): continue
        found += [f"{name}: {hit}" for hit in machine.findall(path.read_text(encoding="utf-8", errors="ignore"))]
    assert found == []


def run(command, folder, **env):
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_set_up_says_plainly_what_is_missing(tmp_path):
    "Each in one line, with a machine pretended by a PATH of its own."
    tools = tmp_path/"bin"
    tools.mkdir()
    (tmp_path/".ci").mkdir()
    shutil.copy(ROOT/".ci/setup", tmp_path/".ci/setup")
    def tool(name, text):
        (tools/name).write_text("#!/bin/sh\n" + text + "\n")
        (tools/name).chmod(0o755)
    def says(*args):
        done = run(["/bin/sh", ".ci/setup", "check", *args], tmp_path, PATH=str(tools))
        assert done.returncode == 1 and done.stdout == "", done
        return done.stderr
    tool("dirname", "echo .ci")
    tool("head", "read line; echo $line")
    assert says() == "motionbench: git is missing; install it and run make again\n"
    tool("git", "")
    assert says() == "motionbench: Python is missing; install Python 3.11, 3.12 or 3.13 and run make again\n"
    tool("python3", '[ "$1" = -V ] && echo Python 3.9.2 || exit 1')
    assert says() == "motionbench: found only Python 3.9.2; motionbench needs Python 3.11, 3.12 or 3.13 (name one with make PY=/path/to/python3.12)\n"
    assert says("python3") == "motionbench: PY=python3 is Python 3.9.2; motionbench needs Python 3.11, 3.12 or 3.13\n"
    assert says("python3.14") == "motionbench: there is no Python at PY=python3.14\n"
    tool("python3.12", '[ "$2" = "import ensurepip, venv" ] && exit 1; exit 0')
    assert says() == "motionbench: python3.12 has no venv; install it (on Debian and Ubuntu: apt install python3-venv) and run make again\n"
    tool("uv", "")
    assert run(["/bin/sh", ".ci/setup", "check"], tmp_path, PATH=str(tools)).returncode == 0
