"""Imports go down: a package imports only the packages in its row of ARROWS."""

import ast
import graphlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# From the ground up: whatever a package may import stands above it in this table. Loose modules of
# the package omnidali are rows, too.
ARROWS: dict[str, str] = {
    "errors": "",
    "media_kind": "",
    "utils": "errors",
    "config": "errors media_kind utils",
    "processes": "errors utils",
    "distributed": "errors processes utils",
    "testing": "media_kind utils",
    "catalog.probing": "config media_kind processes utils",
    "catalog.listing": "catalog.probing config errors media_kind utils",
    "catalog.database": "catalog.listing catalog.probing errors media_kind utils",
    "catalog": "catalog.database catalog.listing catalog.probing config errors utils",
    "planning": "catalog.database config errors media_kind utils",
    "decoding": "catalog.database catalog.probing config errors media_kind planning processes"
    " utils",
    "models": "config errors utils",
    "pipelines": "utils",
    "loading.failures": "catalog.database catalog.probing config decoding errors utils",
    "loading": "catalog catalog.database catalog.listing catalog.probing config decoding"
    " distributed errors loading.failures pipelines planning utils",
    "evaluation": "catalog.database config distributed errors loading models planning utils",
    "training": "catalog.database config distributed errors evaluation loading loading.failures"
    " models planning processes utils",
    "curation": "catalog.database catalog.listing catalog.probing config decoding distributed"
    " errors loading loading.failures media_kind planning processes training utils",
    "curation.lint": "catalog catalog.database catalog.listing catalog.probing config curation"
    " decoding errors loading loading.failures media_kind planning utils",
    "curation.dedup": "catalog.database config curation decoding distributed errors evaluation"
    " loading models planning utils",
    "curation.filter": "catalog.database config curation distributed errors evaluation loading"
    " models planning utils",
    "curation.copies": "catalog.database catalog.listing catalog.probing config curation decoding"
    " errors loading media_kind planning processes utils",
    "prediction": "catalog catalog.database catalog.listing catalog.probing config distributed"
    " errors evaluation loading loading.failures media_kind models utils",
    "demo": "catalog.listing config distributed errors loading models processes utils",
    "experiments": "config curation demo distributed errors loading models planning processes"
    " training utils",
    "doctor": "catalog catalog.database catalog.probing config decoding distributed errors loading"
    " pipelines planning processes testing training utils",
    "cli": "config curation curation.copies curation.dedup curation.filter curation.lint demo"
    " distributed doctor errors evaluation experiments loading models prediction processes training"
    " utils",
    "__main__": "cli",
}
TORCH_FREE = ("utils", "processes", "catalog", "planning", "decoding", "config")


def module_paths() -> Iterator[tuple[str, Path]]:
    """The dotted name and the path of each module, for example ("omnidali.errors", ...)."""
    for folder, _, names in os.walk(ROOT / "omnidali", followlinks=True):
        for name in names:
            if name.endswith(".py"):
                path = Path(folder, name)
                dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield dotted.removesuffix(".__init__"), path


MODULES = dict(module_paths())


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Each imported module with its line; imports within functions count as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relative to itself"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else str(node.module)), node.lineno


def package_of(module: str) -> str:
    """The row of ARROWS that a module of ours belongs to."""
    name = module.removeprefix("omnidali.")
    rows = [row for row in ARROWS if name == row or name.startswith(f"{row}.")]
    assert rows, f"{module} has no row in ARROWS"
    return max(rows, key=len)


def arrows() -> dict[tuple[str, str], str]:
    """(importing package, imported package): the place of one such import."""
    found = {}
    for module, path in MODULES.items():
        if module == "omnidali":  # its public names are imported on first use
            continue
        for target, line in imports(path):
            if target.partition(".")[0] == "omnidali" and target != "omnidali":
                arrow = package_of(module), package_of(target)
                if arrow[0] != arrow[1]:
                    found[arrow] = f"{path.relative_to(ROOT)}:{line} imports {target}"
    return found


def test_table_points_up_only():
    above: set[str] = set()
    for package, allowed in ARROWS.items():
        assert set(allowed.split()) <= above, f"{package}: {set(allowed.split()) - above}"
        above.add(package)


def test_packages_import_only_what_their_row_allows():
    wrong = [
        place
        for (package, target), place in arrows().items()
        if target not in ARROWS[package].split()
    ]
    assert not wrong, "\n".join(wrong)


def test_every_allowed_import_is_used():
    allowed = {(package, target) for package, row in ARROWS.items() for target in row.split()}
    assert allowed - set(arrows()) == set()


def test_modules_import_each_other_in_no_circle():
    graph = {
        module: {target for target, _ in imports(path) if target in MODULES and target != module}
        for module, path in MODULES.items()
        if module != "omnidali"
    }
    for targets in graph.values():
        targets.discard("omnidali")
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_checks_see_wrong_imports(tmp_path):
    """The control: an import within a function is found, and so is a circle."""
    module = tmp_path / "module.py"
    module.write_text("def load():\n    from omnidali.cli import main\n    import torch.nn\n")
    assert list(imports(module)) == [("omnidali.cli.main", 2), ("torch.nn", 3)]


def test_only_pipelines_import_dali():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in MODULES.items()
        for target, line in imports(path)
        if target.startswith("nvidia")
        and target != "nvidia.nvimgcodec"  # JPEG on the CPU, a package of its own
        and package_of(module) != "pipelines"
    ]
    assert not wrong, "\n".join(wrong)


def test_packages_below_loading_import_no_torch():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in MODULES.items()
        for target, line in imports(path)
        if target.partition(".")[0] == "torch"
        and module.removeprefix("omnidali.").startswith(TORCH_FREE)
    ]
    assert not wrong, "\n".join(wrong)


def test_pipelines_know_only_numpy_and_dali():
    allowed = {"__future__", "collections", "re", "numpy", "nvidia", "omnidali", "typing"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in MODULES.items()
        for target, line in imports(path)
        if module.startswith("omnidali.pipelines") and target.partition(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)
