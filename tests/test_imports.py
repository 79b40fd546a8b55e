"""Imports go down only (the floors of the architecture)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = {
    "omnidali/cli/main.py": 4,
    "omnidali/experiments/ablate.py": 4,
    "omnidali/experiments/curate.py": 4,
    "omnidali/commands": 4,
    "omnidali/processes/launch.py": 2,
    "omnidali/curation": 3.5,
    "train.py": 4,
    "evaluate.py": 4,
    "omnidali/training": 3,
    "omnidali/evaluation": 3,
    "omnidali/bench": 4,
    "omnidali/demo": 3,
    "omnidali/loading": 2,
    "omnidali": 1,
    "pipelines": 1,
}
TORCH_FREE = ("omnidali/catalog", "omnidali/planning", "omnidali/decoding")


def room(path: str) -> str:
    return max((name for name in FLOORS if path == name or path.startswith(name + "/")), key=len)


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def sources():
    for path in [
        *ROOT.glob("omnidali/**/*.py"),
        *ROOT.glob("pipelines/*.py"),
        ROOT / "train.py",
        ROOT / "evaluate.py",
    ]:
        yield path, str(path.relative_to(ROOT))


def test_imports_go_down():
    broken = []
    for path, name in sources():
        for module, line in imports(path):
            target = module.replace(".", "/")
            if not target.startswith(("omnidali", "pipelines")):
                continue
            target = f"{target}.py" if (ROOT / f"{target}.py").exists() else target
            here, there = room(name), room(target)
            if here == there:
                continue
            if (
                here == "pipelines"
                or FLOORS[there] > FLOORS[here]
                or (FLOORS[here] == FLOORS[there] == 3)
            ):
                broken.append(f"{name}:{line} imports {module}")
            if here == "omnidali" and there == "pipelines":
                broken.append(f"{name}:{line} imports {module}: only loading feeds the pipelines")
    assert not broken, "\n".join(broken)


def test_only_pipelines_import_dali():
    broken = [
        f"{name}:{line}"
        for path, name in sources()
        for module, line in imports(path)
        if module.startswith("nvidia")
        and module != "nvidia.nvimgcodec"
        and not name.startswith("pipelines/")
        and name != "benchmarks/peer_pipelines.py"
    ]
    assert not broken


def test_planning_and_decoding_need_no_torch():
    broken = [
        f"{name}:{line}"
        for path, name in sources()
        for module, line in imports(path)
        if name.startswith(TORCH_FREE) and module.split(".")[0] == "torch"
    ]
    assert not broken


def test_pipelines_know_only_numpy_and_dali():
    allowed = {"__future__", "collections", "re", "numpy", "nvidia", "pipelines"}
    broken = [
        f"{name}:{line} {module}"
        for path, name in sources()
        for module, line in imports(path)
        if name.startswith("pipelines/") and module.split(".")[0] not in allowed
    ]
    assert not broken
