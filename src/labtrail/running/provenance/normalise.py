"""Code without what cannot change a number of a run that ended well: comments, docstrings, messages, log lines.

Why: docs/decisions/048-the-code-that-a-task-reaches.md
"""

import ast
import hashlib
from collections.abc import Iterable, Sequence

_PRINTS = {"print", "warnings.warn"}
_LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# What the arguments of a log line may call: it computes nothing that is kept.
_HARMLESS = {"len", "str", "repr", "round", "int", "float", "sorted", "list", "tuple", "type", "join", "format"}
_BODIES = ("body", "orelse", "finalbody")


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes; empty for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def normalised(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The statements that compute, in place; what is left out is described in the module's first line.

    The names of arguments' types are left out, too, where no decorator can read them; what an error says, but not that
    it is raised.
    """
    return _Normaliser().kept(statements)


def without_fields(definition: ast.ClassDef) -> ast.ClassDef:
    """A class without its annotated fields: those of a config have their values in the key."""
    body = [statement for statement in definition.body if not isinstance(statement, ast.AnnAssign)]
    copied = ast.ClassDef(
        definition.name, definition.bases, definition.keywords, body or [ast.Pass()], definition.decorator_list
    )
    return ast.copy_location(copied, definition)


def digest_of(nodes: Iterable[ast.AST]) -> str:
    """16 hexadecimal digits of what a piece of code says, however it is written."""
    return short_digest("\n".join(ast.dump(node, annotate_fields=False) for node in nodes).encode())


def short_digest(content: bytes) -> str:
    """The first 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def is_log_line(statement: ast.stmt) -> bool:
    """Whether a statement only prints or logs, with arguments that compute nothing."""
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    name = dotted(statement.value.func)
    owner, _, method = name.rpartition(".")
    if name not in _PRINTS and not (method in _LOG_METHODS and "log" in owner.lower()):
        return False
    return all(_is_harmless(node) for node in ast.walk(statement.value) if node is not statement.value)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
        return False
    if not isinstance(node, ast.Call):
        return True
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called in _HARMLESS


class _Normaliser(ast.NodeTransformer):
    def __init__(self) -> None:
        self._in_function = False

    def kept(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        return [self.visit(statement) for statement in body if not self._says_nothing(statement)]

    def _says_nothing(self, statement: ast.stmt) -> bool:
        is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        return is_text or isinstance(statement, ast.Pass) or is_log_line(statement)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name, value in ast.iter_fields(node):
            if name in _BODIES and isinstance(value, list):
                setattr(node, name, self.kept(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(part) if isinstance(part, ast.AST) else part for part in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if not node.decorator_list:
            node.returns = None
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                argument.annotation = None
            for argument in (arguments.vararg, arguments.kwarg):
                if argument is not None:
                    argument.annotation = None
        outside, self._in_function = self._in_function, True
        self.generic_visit(node)
        self._in_function = outside
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outside, self._in_function = self._in_function, False
        self.generic_visit(node)
        self._in_function = outside
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # Annotations of local variables are never evaluated.
        if self._in_function and node.value is not None:
            return self.generic_visit(ast.copy_location(ast.Assign([node.target], node.value), node))
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call) and dotted(node.exc.func):
            return ast.copy_location(ast.Raise(node.exc.func, None), node)
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)
