"""Known ways to make a pickle run code or import a module: none may, and each is named."""

import builtins
import codecs
import functools
import importlib
import operator
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from medssl_models.checkpoints.haiku_pickle import parse_haiku_pickle
from medssl_models.errors import UnsafeCheckpointError
from medssl_models.testing.checkpoints import Call, pickle_bytes


class Reduces:
    """An object that is pickled as a call of anything."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


MARKER = "medssl_attack_marker"
WRITE = f"__import__('os').environ.__setitem__({MARKER!r}, '1')"
GETATTR = b"c__builtin__\ngetattr\n"

NAMEDTUPLE = Call("dill._dill _create_namedtuple", ("n", ("a",), "os"))


def calls(*parts):
    return Reduces(*parts)


def dill(module, *names):
    found = Call("dill._dill _import_module", (module,))
    for name in names:
        found = Call("dill._dill _get_attr", (found, name))
    return pickle_bytes(found)


ATTACKS = {
    "os.system": pickle.dumps(calls(os.system, (f"export {MARKER}=1",))),
    "os.system, protocol 0": pickle.dumps(calls(os.system, ("true",)), protocol=0),
    "posix by name": b"cposix\nsystem\n(S'true'\ntR.",
    "nt by name": b"cnt\nsystem\n(Vtrue\ntR.",
    "eval": pickle.dumps(calls(eval, (WRITE,))),
    "exec": pickle.dumps(calls(exec, (WRITE,))),
    "compile": pickle.dumps(calls(compile, (WRITE, "x", "eval"))),
    "__builtin__ of Python 2": b"c__builtin__\neval\n(V" + WRITE.encode() + b"\ntR.",
    "subprocess": pickle.dumps(calls(subprocess.Popen, (["true"],))),
    "getattr chain": GETATTR + b"(" + GETATTR + b"(cos\npath\nVos\ntRVsystem\ntR(Vtrue\ntR.",
    "import_module": pickle.dumps(calls(importlib.import_module, ("antigravity",))),
    "__import__": pickle.dumps(calls(builtins.__import__, ("antigravity",))),
    "functools.partial": pickle.dumps(functools.partial(os.system, "true")),
    "operator.methodcaller": pickle.dumps(operator.methodcaller("system", "true")),
    "operator.attrgetter": pickle.dumps(operator.attrgetter("system")),
    "codecs.decode": pickle.dumps(calls(codecs.decode, (b"x", "zip"))),
    "encode to another codec": pickle_bytes(Call("_codecs encode", ("x", "rot13"))),
    "encode with an error handler": pickle_bytes(Call("_codecs encode", ("x", "latin1", "z"))),
    "NEWOBJ of a class": b"\x80\x02ccollections\nCounter\n)\x81.",
    "copyreg._reconstructor": pickle_bytes(Call("copyreg _reconstructor", ("a", "b", ()))),
    "copyreg.add_extension": b"ccopyreg\nadd_extension\n(Vos\nVsystem\nK\x01tR.",
    "types.FunctionType": b"ctypes\nFunctionType\n.",
    "types.CodeType": b"ctypes\nCodeType\n.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0ccore.os.path\x93.",
    "dotted name behind an allowed module": b"\x80\x04\x8c\x0adill._dill\x8c\x0b_get_attr.x\x93.",
    "numpy.load": b"cnumpy\nload\n(Vx.npy\ntR.",
    "numpy.testing runstring": b"cnumpy.testing._private.utils\nrunstring\n(Vx\n}tR.",
    "numpy.f2py": b"cnumpy.f2py.crackfortran\nmyeval\n(V1\ntR.",
    "torch loader": b"ctorch\nload\n(Vx\ntR.",
    "object array": pickle.dumps({"w": np.array([{}, os.system], dtype=object)}),
    "structured array": pickle.dumps({"w": np.zeros(2, [("a", "f4")])}),
    "string array": pickle.dumps({"w": np.array(["a"])}),
    "date array": pickle.dumps({"w": np.array(["2020-01-01"], "M8[D]")}),
    "array of another class": pickle_bytes(
        Call("numpy.core.multiarray _reconstruct", ("dict", (0,), b"b"))
    ),
    "_import_module('os')": dill("os"),
    "_import_module of an allowed name's child": dill("numpy.core._multiarray_umath._reconstruct"),
    "_get_attr(os, 'system')": dill("os", "system"),
    "_get_attr of another function": dill("numpy.core._multiarray_umath", "fromfile"),
    "_get_attr of a dunder": dill("_codecs", "__loader__"),
    "_get_attr of an attribute": dill("_codecs", "encode", "__self__"),
    "dotted _get_attr": dill("numpy.core", "_multiarray_umath._reconstruct"),
    "_get_attr of a namedtuple": pickle_bytes(
        Call(
            "dill._dill _get_attr",
            (Call("dill._dill _create_namedtuple", ("n", ("a",), "os")), "x"),
        )
    ),
    "calls a module": pickle_bytes(Call("dill._dill _import_module", ("_codecs",)))[:-1] + b")R.",
    "dill._create_function": b"cdill._dill\n_create_function\n)R.",
    "_create_array of another function": pickle_bytes(
        Call("dill._dill _create_array", (Call("_codecs encode", ("a", "latin1")), ("x",), ()))
    ),
    "dill._create_code": b"cdill._dill\n_create_code\n)R.",
    "dill._eval_repr": b"cdill._dill\n_eval_repr\n(Vx\ntR.",
    "dill._load_type of a function": pickle_bytes(Call("dill._dill _load_type", ("FunctionType",))),
    "namedtuple with odd fields": pickle_bytes(
        Call("dill._dill _create_namedtuple", ("n", (1, 2), "m"))
    ),
    "mapping of something else": pickle_bytes(
        Call("haiku._src.data_structures FlatMapping", ([("a", 1)],))
    ),
    "haiku transform": b"chaiku._src.transform\ntransform\n)R.",
    "persistent id": b"\x80\x04Pos.system\n.",
    "binary persistent id": b"\x80\x04\x8c\x01xQ.",
    "INST": b"(Vtrue\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nVtrue\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\0\0\0.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "BUILD on a mapping": b"\x80\x04}}b.",
    "BUILD on a function": b"\x80\x04cnumpy\nndarray\n}b.",
    "calls a string": b"\x80\x04\x8c\x02os)R.",
    "calls with a list": b"\x80\x04cnumpy\ndtype\n]R.",
    "calls with keywords": b"\x80\x04cnumpy\ndtype\n)}\x8c\x01aNs\x92.",
    "makes an ndarray": b"\x80\x04cnumpy\nndarray\nK\x05\x85\x81.",
}


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS)
def test_no_attack_runs(data, monkeypatch):
    def forbidden(*arguments, **options):
        pytest.fail(f"the file ran {arguments} {options}")

    for owner, name in ((os, "system"), (subprocess, "Popen"), (importlib, "import_module")):
        monkeypatch.setattr(owner, name, forbidden)
    modules, environment = set(sys.modules), dict(os.environ)
    with pytest.raises(UnsafeCheckpointError):
        parse_haiku_pickle(data)
    assert set(sys.modules) == modules
    assert dict(os.environ) == environment


def test_the_message_names_the_global():
    with pytest.raises(UnsafeCheckpointError, match=r"'posix\.system'.*nothing was run"):
        parse_haiku_pickle(pickle.dumps(calls(os.system, ("true",))))


def test_the_module_needs_no_unpickler():
    """A reader that never imports pickle cannot fall back to it."""
    from medssl_models.checkpoints import haiku_pickle, pickle_machine

    for module in (haiku_pickle, pickle_machine):
        assert not {"pickle", "dill", "importlib", "__import__"} & set(vars(module))
