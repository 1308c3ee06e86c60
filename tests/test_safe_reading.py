"Hostile motion files, each read in a child process under a memory limit: one clean error, quickly, and nothing of theirs runs."
import bz2
import enum
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import select
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from functools import reduce
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from motionbench.core.errors import MotionFormatError
from motionbench.io.safe_pickle import ENUMS, _finish, _Reader, kept, load, loads
from motionbench.io import safe_plain
from motionbench.io.safe_plain import plain_until, read_plain
from motionbench.io.shared import pickled

DATA = Path(os.environ.get("MOTIONBENCH_TEST_DATA", Path(__file__).parents[1]/"../shared/data")).resolve()/"robot_motion"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data at {DATA}; set MOTIONBENCH_TEST_DATA")
SECONDS, MEGABYTES = 3.0, 200   # of CPU: 1.0 on a quiet machine; a busy one took 1.5 for the same file

CHILD = """
import json, os, resource, sys, time
from motionbench.core.errors import MotionFormatError
from motionbench.io.safe_pickle import load
for codec in ("raw_unicode_escape", "cp437", "unicode_escape", "latin1"): "x".encode(codec)     # modules of the codecs
import unicodedata
ran = []
watched = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "subprocess.Popen", "exec", "socket.connect", "ctypes.dlopen", "pickle.find_class", "import"}
def hook(event, args):
    if event in watched or event == "open" and args[0] != name: ran.append(f"{event} {args}"[:200])
name = None
pages = lambda: int(open("/proc/self/statm").read().split()[0])*resource.getpagesize()
limit = pages() + int(sys.argv[1])*2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.addaudithook(hook)
for line in sys.stdin:
    name, problem = line.rstrip("\\n"), None
    ran.clear()
    start = time.process_time()
    try: load(name)
    except MotionFormatError as e: problem = str(e)
    except BaseException as e: ran.append(f"{type(e).__name__} instead of MotionFormatError: {e}"[:200])
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024
    print(json.dumps([problem, seconds, grown, [r for r in ran if not r.startswith("import ('lz4")]]), flush=True)
"""


class Reader:
    "The child process; `ask` names the file if the child dies or hangs."
    def __init__(self): self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, str(MEGABYTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def ask(self, path):
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline() if select.select([self.process.stdout], [], [], 30)[0] else b""
        if not line:
            self.process.kill()
            code = self.process.wait()
            self.start()
            raise AssertionError(f"{path.name}: the reader died or hung (exit code {code})")
        problem, seconds, grown, ran = json.loads(line)
        assert not ran, (path.name, ran)
        assert seconds < SECONDS and grown < MEGABYTES, (path.name, problem, seconds, grown)
        return problem


@pytest.fixture(scope="module")
def reader():
    r = Reader()
    yield r
    r.process.stdin.close()
    r.process.wait()


# ---- the files

P2, P4 = b"\x80\x02", b"\x80\x04"


class Gadget:
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args


def text(s): return b"X" + struct.pack("<I", len(s)) + s.encode()
def name(module, n): return f"c{module}\n{n}\n".encode()
def call(module, n, *args): return P2 + name(module, n) + b"(" + b"".join(args) + b"tR."
def zeros(n): return bytes(n)
def frame(n): return b"\x95" + struct.pack("<Q", n)
def original(data): return pickle.Unpickler(io.BytesIO(data)).load()


def legacy_storage(numbers, count=None):
    "The old torch layout, as `torch.storage._load_from_bytes` takes it."
    tail = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"J" + struct.pack("<i", count or len(numbers)//4) + b"NtQ."
    return (pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + P2 + tail
            + pickle.dumps(["0"], 2) + struct.pack("<q", len(numbers)//4) + numbers)


def torch_zip(structure, numbers=zeros(24), **more):
    buffer = io.BytesIO()
    compress = more.pop("compress", 0)
    with zipfile.ZipFile(buffer, "w", compress) as z:
        for n, data in {"data.pkl": structure, "data/0": numbers, "byteorder": b"little", **more}.items(): z.writestr(f"clip/{n}", data)
    return buffer.getvalue()


def tensor(count=6, offset=0, shape=b"K\x02K\x03\x86", strides=b"K\x03K\x01\x86", kind="Float"):
    "The structure of a torch archive: one tensor."
    count = b"\x8a\x08" + struct.pack("<q", count)
    return (P2 + name("torch._utils", "_rebuild_tensor_v2") + b"((" + text("storage") + name("torch", f"{kind}Storage") + text("0") + text("cpu") + count + b"tQ"
            + b"J" + struct.pack("<i", offset) + shape + strides + b"\x89" + name("collections", "OrderedDict") + b")RtR.")


def laugh(levels, width, first=b")", build=b"t"):
    "A container that holds `width` times the one before, and so on."
    out = first + b"q\0" + b"0"
    for i in range(1, levels): out += b"(" + (b"h" + bytes([i - 1]))*width + build + b"q" + bytes([i]) + b"0"
    return out + b"h" + bytes([levels - 1])


def joblib_bytes(obj, **options):
    buffer = io.BytesIO()
    joblib.dump(obj, buffer, **options)
    return buffer.getvalue()


def npy(obj, **options):
    buffer = io.BytesIO()
    np.save(buffer, obj, allow_pickle=True)
    return buffer.getvalue()


def npy_head(shape, descr="<f8", version=1):
    head = str(dict(descr=descr, fortran_order=False, shape=shape)).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(head)) + head


def wrapped(shape=b"K\x02K\x03\x86", dtype=b"<f8", padding=b"", numbers=zeros(48)):
    "A joblib stream with one array."
    return (P2 + name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}(" + text("subclass") + name("numpy", "ndarray") + text("shape") + shape + text("order") + text("C")
            + text("dtype") + name("numpy", "dtype") + b"(" + text(dtype.decode()) + b"\x89\x88tR" + text("allow_mmap") + b"\x88" + text("numpy_array_alignment_bytes") + (b"K\x10" if padding else b"N")
            + b"ub" + padding + numbers + b".")


CALLS = ["os.system", "posix.system", "os.popen", "os._exit", "os.execv", "os.remove", "sys.exit", "subprocess.Popen", "subprocess.check_output", "builtins.eval", "builtins.exec", "builtins.open",
         "builtins.__import__", "builtins.getattr", "builtins.print", "builtins.map", "__builtin__.eval", "importlib.import_module", "runpy.run_path", "pty.spawn", "operator.attrgetter",
         "functools.partial", "types.FunctionType", "marshal.loads", "pickle.loads", "_pickle.loads", "shutil.rmtree", "socket.create_connection", "webbrowser.open", "timeit.timeit", "pdb.run",
         "collections.defaultdict", "copyreg._reconstructor", "copyreg.__newobj__", "numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.save", "numpy.zeros", "numpy.testing._private.utils.runstring",
         "numpy.f2py.compile", "numpy.core.records.fromfile", "numpy.lib.npyio.NpzFile", "numpy._core._internal._reconstruct", "torch.load", "torch.hub.load", "torch.jit.load", "torch.zeros",
         "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "joblib.load", "joblib.numpy_pickle.NDArrayWrapper", "joblib.memory.Memory", "motionbench.io.safe_pickle.load",
         "protomotions.simulator.base_simulator.simulator_state.RobotState"]


def hostile(canary):
    "Name -> bytes."
    touch = f"touch {canary}"
    key = lambda k: P2 + b"}" + k + b"Ns."
    out = {f"reduce protocol {p}": pickle.dumps({"fps": Gadget(os.system, touch)}, p) for p in range(6)}
    out |= {f"call {c}": call(*c.rsplit(".", 1), text(touch)) for c in CALLS}
    out |= {f"stack global {m}.{n}": P4 + text(m) + text(n) + b"\x93" + text(touch) + b"\x85R." for m, n in
            [("os", "system"), ("builtins", "eval"), ("numpy", "ndarray.__class__"), ("numpy", "dtype.__init__.__globals__"), ("numpy.core", "multiarray._reconstruct.__globals__"), ("", ""), ("motionbench.io.safe_pickle", "os.system")]}
    out |= {   # opcodes that build objects
        "inst": f"(S'{touch}'\nios\nsystem\n.".encode(), "obj": f"(cos\nsystem\nS'{touch}'\no.".encode(), "newobj": P2 + name("numpy", "ndarray") + b")\x81.",
        "newobj of a call": P2 + name("os", "system") + text(touch) + b"\x85\x81.", "newobj ex": P4 + name("numpy", "ndarray") + b")}\x92.",
        "build on a list": P2 + b"]}" + text("a") + b"K\x01sb.", "build on a function": P2 + name("numpy", "ndarray") + b"}" + text("__name__") + text("x") + b"sb.",
        "build on a class": P2 + name("numpy", "dtype") + b"N}" + text("__init__") + name("numpy", "ndarray") + b"s\x86b.",
        "build on a dict": P2 + b"}}" + text("__class__") + text("x") + b"sb.", "call of a list": P2 + b"])R.", "call of a text": P2 + text("os.system") + b")R.",
        "call with a list": P2 + name("numpy", "ndarray") + b"]R.", "call of a call": P2 + name("numpy", "ndarray") + b")R)R.", "call of a deep tuple": P2 + b")" + b"\x85"*400_000 + b")R.",
        "persistent id": b"Pos.system\n.", "binary persistent id": P2 + text("x") + b"Q.", "torch persistent id in a pickle": P2 + b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x06tQ.",
        "ext1": P2 + b"\x82\x01.", "ext2": P2 + b"\x83\x01\x00.", "ext4": P2 + b"\x84\x01\x00\x00\x00.", "next buffer": b"\x80\x05\x97.", "readonly buffer": b"\x80\x05N\x98.",
        "a class as data": P2 + name("numpy", "ndarray") + b".", "a dtype as data": call("numpy", "dtype", text("<f8"))}
    out |= {   # arrays
        "object array": pickle.dumps(np.array([Gadget(os.system, touch)], dtype=object)), "object array of numbers": pickle.dumps(np.array([1, None], dtype=object)),
        "object array in joblib": joblib_bytes({"dof": np.array([Gadget(os.system, touch)], dtype=object)}), "object array in npy": npy(np.array([Gadget(os.system, touch)], dtype=object)),
        "object array in an npy object": npy({"dof": np.array([1, None], dtype=object)}), "call in an npy object": npy({"fps": Gadget(os.system, touch)}),
        "object scalar": call("numpy.core.multiarray", "scalar", name("numpy", "dtype") + b"(" + text("O8") + b"\x89\x88tR", text("")), "structured dtype": pickle.dumps(np.zeros(2, [("a", "f8")])),
        "void dtype": pickle.dumps(np.zeros(2, "V8")), "datetime": pickle.dumps(np.zeros(2, "M8[s]")), "dtype of a dict": call("numpy", "dtype", b"}"), "dtype with a program": call("numpy", "dtype", text("f8,(1000000000)f8")),
        "matrix": pickle.dumps(np.matrix([[1.0]])), "masked array": pickle.dumps(np.ma.zeros(3)), "record array": pickle.dumps(np.zeros(2, [("a", "f8")]).view(np.recarray)),
        "huge array": call("numpy", "ndarray", b"K\x02J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86" + text("<f8") + b"C\x00"), "terabyte without buffer": call("numpy", "ndarray", b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85" + text("<f8")),
        "huge empty text": call("numpy", "ndarray", b"J\xff\xff\xff\x7f\x85" + text("<U0") + b"C\x00"), "wide text": call("numpy", "ndarray", b"K\x01\x85" + text("<U999999999") + b"C\x00"),
        "negative shape": call("numpy", "ndarray", b"J\xff\xff\xff\xff\x85" + text("<f8") + b"C\x00"), "shape that laughs": P2 + name("numpy", "ndarray") + b"(" + laugh(12, 10) + text("<f8") + b"C\x00tR.",
        "dtype that laughs": P2 + name("numpy", "dtype") + b"(" + laugh(12, 10) + b"tR.", "array without state": P2 + name("numpy.core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray") + b"K\x00\x85C\x01btR.",
        "aliased big-endian arrays": P2 + b"](B" + struct.pack("<I", 10**6) + zeros(10**6) + b"q\x00" + (name("numpy._core.numeric", "_frombuffer") + b"(h\x00" + text(">f8") + b"J" + struct.pack("<i", 125_000) + b"\x85" + text("C") + b"tR")*300 + b"e.",
        "array that is its own item": P2 + b"]q\x00h\x00a."}
    out |= {   # joblib and npy
        "joblib huge": wrapped(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"), "joblib larger than the file": wrapped(b"J\x00\x00\x00\x04\x85"), "joblib negative": wrapped(b"J\xff\xff\xff\xffK\x01\x86"), "joblib true": wrapped(b"\x88\x85"),
        "joblib objects": wrapped(dtype=b"O"), "joblib padding beyond the end": wrapped(padding=b"\xff" + zeros(3), numbers=b""), "joblib shape laughs": wrapped(laugh(12, 10)), "joblib wrapper without state": P2 + name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81.",
        "npy huge": npy_head((2**40,)), "npy huge and empty": npy_head((2**40, 2**40, 0)) + b"x", "npy header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{", "npy version 9": npy_head((1,), version=9), "npy program": npy_head("__import__('os')") + zeros(8),
        "npy deep header": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"("*9000, "npy short": npy_head((3,)) + zeros(8), "npy objects without": npy_head((), "|O") + P2 + b".", "npy objects, wrong count": npy_head((5,), "|O") + npy(np.array([1, None], dtype=object))[128:]}
    out |= {   # bombs
        "laughing tuples": P2 + laugh(12, 10) + b".", "laughing lists": P2 + laugh(12, 10, b"]", b"l") + b".", "laughing leaves": P2 + laugh(5, 100, text("x")) + b".", "laughing key": key(laugh(12, 10)), "laughing set": P4 + b"\x8f(" + laugh(12, 10) + b"\x90.",
        "laughing dicts": pickle.dumps(reduce(lambda d, _: {str(i): d for i in range(10)}, range(12), {})),
        "tuple key": pickle.dumps({(1, 2): 3}), "deep key": key(b")" + b"\x85"*2_000_000), "deep list": P2 + b"]"*200_000 + b"a"*199_999 + b".", "deep list, marks": b"("*200_000 + b"l"*200_000 + b".", "deep tuple": P4 + b")" + b"\x85"*200_000 + b".",
        "deep dicts": P2 + (b"}" + text("k"))*100 + b"N" + b"s"*100 + b".", "depth 61": P2 + b"]"*70 + b"a"*69 + b".",
        "cycle": P2 + b"]q\x00]h\x00aa.", "dict cycle": P2 + b"}q\x00" + text("a") + b"h\x00s.",
        "memo index 2^31": P2 + b"]r\xff\xff\xff\x7f.", "memo index 2^26": P2 + b"Nr\x00\x00\x00\x04.", "memo index, protocol 0": b"Np99999999999\n.", "memo index, digits": b"Np" + b"9"*100_000 + b"\n.",
        "huge bytes": P4 + b"\x8e" + struct.pack("<Q", 2**40) + b"x.", "huge bytes, signed": P4 + b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.", "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x.", "huge text": P4 + b"\x8d" + struct.pack("<Q", 2**40) + b"x.",
        "huge frame": P4 + b"\x95" + struct.pack("<Q", 2**40) + b"N.", "1 GB of bytes announced": P2 + b"B" + struct.pack("<I", 2**30) + b"x.", "huge text 4": P2 + b"X" + struct.pack("<I", 2**32 - 1) + b"x.", "frame in frame": P4 + b"\x95" + struct.pack("<Q", 12) + b"\x95" + struct.pack("<Q", 2) + b"N..",
        "integer of 5 MB": P2 + b"\x8b" + struct.pack("<i", 5_000_000) + b"\x7f"*5_000_000 + b".", "negative length": P2 + b"\x8b" + struct.pack("<i", -1) + b".", "integer in digits": b"I" + b"9"*400_000 + b"\n.", "long in digits": b"L" + b"9"*400_000 + b"L\n.",
        "five million lists": P2 + b"("+ b"]"*5_000_000 + b"t.", "five million lists, no tuple": P2 + b"]("+ b"]"*5_000_000 + b"e.", "five million dicts": P4 + b"]("+ b"}"*5_000_000 + b"e.", "lists in the memo": P4 + b"("+ b"]\x94"*2_000_000 + b"t.", "ten million marks": P2 + b"("*10_000_000 + b".",
        "ten million nones, then a call": P2 + b"(" + b"N"*10_000_000 + b"t" + name("os", "system") + b".", "no end of pops": P2 + b"N0"*5_000_000 + b")R.",
        "colliding keys": P2 + b"}(" + b"".join(b"\x8a\x0c" + (i*(2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(1, 100_000)) + b"u.", "colliding set": P4 + b"\x8f(" + b"".join(b"\x8a\x0c" + (i*(2**61 - 1)).to_bytes(12, "little") for i in range(1, 50_000)) + b"\x90.",
        "list as key": key(b"]"), "array as key": key(pickle.dumps(np.zeros(3), 2)[2:-1]), "odd items": P2 + b"}(NNNu.", "items for a list": P2 + b"](NNu.", "append to a dict": P2 + b"}Na.", "append to a text": P2 + text("x") + b"Na."}
    out |= {   # compressed
        "zlib bomb": zlib.compress(zeros(130_000_000), 9), "gzip bomb": gzip.compress(zeros(130_000_000), 9), "bz2 bomb": bz2.compress(zeros(130_000_000), 9), "xz bomb": lzma.compress(zeros(130_000_000), preset=0), "lzma bomb": lzma.compress(zeros(130_000_000), lzma.FORMAT_ALONE, preset=0),
        "lzma with a dictionary of 4 GB": b"\x5d\0\0\0\xff\xff" + b"\xff"*7 + zeros(40), "compressed call": joblib_bytes({"fps": Gadget(os.system, touch)}, compress=("gzip", 3)), "compressed twice": zlib.compress(zlib.compress(pickle.dumps({"fps": 30}))),
        "compressed garbage": gzip.compress(b"no pickle here"), "cut gzip": gzip.compress(pickle.dumps(list(range(1000))))[:-30], "gzip head only": b"\x1f\x8b", "zlib garbage": b"\x78\x9c" + b"\xff"*50, "lz4": b"\x04\"M\x18" + zeros(30), "compressed object array": joblib_bytes([np.array([None, 1], dtype=object)], compress=("zlib", 3))}
    out |= {   # torch
        "call in torch": torch_zip(call("os", "system", text(touch))), "foreign class in torch": torch_zip(call("some_package.enums", "State", text("x"))), "deep key in torch": torch_zip(key(b")" + b"\x85"*2_000_000)), "torch script": torch_zip(P2 + b"N.", **{"constants.pkl": b"x", "code/a.py": b"x"}),
        "compressed torch": torch_zip(tensor(32_500_000, shape=b"K\x01K\x01\x86"), zeros(130_000_000), compress=zipfile.ZIP_DEFLATED), "storage beyond the file": torch_zip(tensor(2**40)), "storage too short": torch_zip(tensor(7)), "negative storage": torch_zip(tensor(-6)),
        "tensor beyond the storage": torch_zip(tensor(offset=3)), "strides beyond": torch_zip(tensor(strides=b"M\xff\xffK\x01\x86")), "negative stride": torch_zip(tensor(strides=b"J\xff\xff\xff\xffK\x01\x86")), "terabyte by stride 0": torch_zip(tensor(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", strides=b"K\0K\0\x86")),
        "strides missing": torch_zip(tensor(strides=b"K\x01\x85")), "unknown storage": torch_zip(tensor(kind="Quantized")), "zip without pickle": zip_of({"a.txt": b"x"}), "two pickles in torch": zip_of({"a/data.pkl": P2 + b"N.", "b/data.pkl": P2 + b"N."}),
        "missing storage": zip_of({"clip/data.pkl": tensor()}), "zip cut": torch_zip(tensor())[:-30], "zip head": b"PK\3\4" + zeros(100), "storage of another kind": torch_zip(P2 + b"]" + tensor()[2:-1] + b"a" + tensor(count=3, kind="Double", shape=b"K\x01K\x01\x86")[2:-1] + b"a."),
        "same tensor many times": torch_zip(P2 + b"](" + tensor()[2:-1] + b"q\x01" + b"h\x01"*10_000_000 + b"e."),
        "call in torch bytes": call("torch.storage", "_load_from_bytes", b"B" + bytes4(pickle.dumps(Gadget(os.system, touch)))), "empty torch bytes": call("torch.storage", "_load_from_bytes", b"C\x00"), "torch bytes, huge": call("torch.storage", "_load_from_bytes", b"B" + bytes4(legacy_storage(zeros(24), 2**30))),
        "torch bytes in torch bytes": call("torch.storage", "_load_from_bytes", b"B" + bytes4(call("torch.storage", "_load_from_bytes", b"C\x00"))), "torch bytes of text": call("torch.storage", "_load_from_bytes", text("x"))}
    out |= {"empty": b"", "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "web page": b"<!DOCTYPE html><html>404</html>", "zeros": zeros(1000), "protocol only": P2, "stop only": b".", "protocol 99": b"\x80\x63N.", "unknown opcode": P4 + b"\xff\xff",
            "no such memo": P2 + b"h\x07.", "underflow": P2 + b"\x87.", "mark at the end": P2 + b"(.", "bad utf-8": P2 + b"X\x02\0\0\0\xff\xfe.", "bad float": b"Fhello\n.", "random": np.random.default_rng(0).bytes(5000), "cut": pickle.dumps({"a": [1.0]*100}, 2)[:-30]}
    return out


def bytes4(data): return struct.pack("<I", len(data)) + data


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for n, data in members.items(): z.writestr(n, data)
    return buffer.getvalue()


# ---- they all end in one clean error

@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_hostile_files(reader, tmp_path):
    canary, files, wrong = tmp_path/"canary", hostile(tmp_path/"canary"), []
    assert len(files) >= 200
    for i, (n, data) in enumerate(files.items()):
        path = tmp_path/f"{i} {n.replace('/', ' ')}.pkl"
        path.write_bytes(data)
        try:
            problem = reader.ask(path)
            if problem is None: wrong.append(f"{n}: was read")
            elif len(problem) > len(str(path)) + 500 or "\n" in problem: wrong.append(f"{n}: {problem}")
        except AssertionError as e: wrong.append(str(e))
        path.unlink()
        assert not canary.exists(), n
    assert not wrong, "\n".join(wrong)


def test_the_canary_sings(tmp_path):
    "The same file, read by a reader without care, does run: the test above proves something."
    canary = tmp_path/"canary"
    original(pickle.dumps({"fps": Gadget(os.system, f"touch {canary}")}))
    assert canary.exists()


SMALL = {"pickle 0": pickle.dumps({"fps": 30, "names": ["hip"], "dof": np.arange(3.)}, 0), "pickle 2": pickle.dumps({"fps": np.float32(30), "dof": [[0.5, 1], [2, 3]], "pos": np.zeros((2, 1))}, 2),
         "lists": pickle.dumps({"fps": 30, "dof": [[0.5]*3]*2, "names": ["hip"]}, 2), "ours": pickled({"fps": 30, "dof": np.zeros((2, 1)), "contacts": {3: np.ones((1, 3), np.float32), 4: np.zeros((1, 3), np.float32)}, "names": ["hip"]}),
         "pickle 5": pickle.dumps({"s": {1, 2}, "dof": np.arange(3.), "raw": bytearray(b"abc")}, 5), "joblib": joblib_bytes({"walk": {"dof": np.zeros((2, 1)), "fps": 30}}),
         "joblib zlib": joblib_bytes({"dof": np.zeros(3)}, compress=3), "npy": npy(OrderedDict(fps=30, rotation=np.zeros((1, 4)))), "numbers": npy(np.zeros(3)), "torch": torch_zip(tensor()), "storage": call("torch.storage", "_load_from_bytes", b"B" + bytes4(legacy_storage(zeros(8))))}


@pytest.mark.parametrize("kind", SMALL)
def test_cut_at_every_byte(reader, tmp_path, kind):
    "A file cut short is an error at every length (a zip or compressed file may lack its last checksum)."
    data, path = SMALL[kind], tmp_path/"cut.pkl"
    if kind == "storage": data = P2 + b"]" + data[2:]
    else:
        path.write_bytes(data)
        assert reader.ask(path) is None
    for n in range(len(data)):
        path.write_bytes(data[:n])
        assert reader.ask(path), (kind, n)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(SMALL)), changes=st.lists(st.tuples(st.integers(0, 2000), st.one_of(st.integers(0, 255), st.sampled_from(b"cRb.tsuhqr(\x80\x81\x85\x8e\x93\x94\x95\x96"))), min_size=1, max_size=4), twice=st.booleans())
def test_mutations(reader, tmp_path, kind, changes, twice):
    "Whatever bytes change: a value or one clean error, never a crash."
    data = bytearray(SMALL[kind])
    for at, byte in changes: data[at % len(data)] = byte
    if twice: data += data[len(data)//2:]
    path = tmp_path/"mutant.pkl"
    path.write_bytes(data)
    reader.ask(path)


OUR_ARRAY, OUR_BYTES = b"\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94", b"\x8c\x08builtins\x94\x8c\x09bytearray\x94\x93\x94"
OURS = OUR_ARRAY + b"K\x01\x85\x94\x8c\x03<f4\x94" + OUR_BYTES + b"C\x04abcd\x94\x85\x94R\x94\x87\x94R\x94"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from([b"N", b"]", b"}", b")", b"(", b"K\x01", b"G" + zeros(8), text("fps"), b"q\0", b"q\1", b"h\0", b"h\1", b"\x94", b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"R", b"b", b"0", b"2", b"\x8f", b"\x90", b"\x91",
                                       b"\x81", b"C\x04abcd", b"J\xff\xff\xff\x7f", text("<f4"), name("numpy", "ndarray"), name("numpy", "dtype"), name("numpy.core.multiarray", "_reconstruct"), name("numpy._core.numeric", "_frombuffer"),
                                       name("joblib.numpy_pickle", "NumpyArrayWrapper"), name("collections", "OrderedDict"), name("builtins", "set"), name("torch._utils", "_rebuild_tensor_v2"), name("torch.storage", "_load_from_bytes"),
                                       frame(2), frame(9), frame(30), OUR_ARRAY, OUR_BYTES, b"\x8c\x03<f4\x94", b"K\x01\x85\x94", b"C\x04abcd\x94\x85\x94R\x94\x87\x94R\x94", OURS, OURS.replace(OUR_ARRAY, b"h\1"), OURS.replace(b"\x8c\x03<f4\x94", b"h\2")]), max_size=40))
def test_programs(reader, tmp_path, parts):
    "Any sequence of opcodes and known names: a value or one clean error."
    path = tmp_path/"program.pkl"
    path.write_bytes(P2 + b"".join(parts) + b".")
    reader.ask(path)


# ---- honest files read as their own libraries read them

def same(a, b):
    "`a`, from the restricted reader, holds what `b` holds."
    if isinstance(b, torch.Tensor): b = b.detach().numpy()
    if isinstance(b, np.ndarray) and b.dtype == object: b = b.item()
    if isinstance(b, enum.Enum): b = b.value
    if isinstance(b, dict):
        assert list(a) == list(b)
        for k in b: same(a[k], b[k])
    elif isinstance(b, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b): same(x, y)
    elif isinstance(b, np.ndarray):
        b = b.astype(b.dtype.newbyteorder("="))      # ours are always native
        assert (a.dtype, a.shape, a.flags.writeable) == (b.dtype, b.shape, True) and a.tobytes() == b.tobytes()
    else: assert type(a) is type(b) and a == b


class State(enum.Enum): COMMON = "common"


@real
def test_real_files():
    "joblib, numpy and torch, each with its own loader, see the same."
    for path in (DATA/"phc_asap").glob("*.pkl"): same(load(path), getattr(joblib, "load")(path))
    for path in (DATA/"poselib").glob("*.npy"): same(load(path), np.load(path, allow_pickle=True))
    for path in (DATA/"protomotions").glob("*.motion"):
        with torch.serialization.safe_globals([(State, ENUMS[0])]): same(load(path), torch.load(path, weights_only=True))
    path = DATA/"protomotions/output_jumpjack.motion"
    with pytest.raises(MotionFormatError, match="simulator_state.StateConversion"): load(path, enums=())


CLIP = {"fps": np.float32(50), "dof": np.asfortranarray(np.random.default_rng(0).normal(size=(300, 3))), "big": np.arange(600.).astype(">f4"), "empty": np.zeros((0, 3)), "text": np.array(["hip", "knee"]), "half": np.float16([1.5, np.nan]),
        "flags": np.array([True]), "zero": np.array(1.5), "names": ["hip", ("knee", 1, None)], "nested": {"a": [np.arange(3), {"b": -0.0}]}, 3: {1, 2}, "frozen": frozenset("ab"), "c": 1j, "raw": b"xyz", "none": b"", "array": bytearray(b"abc"), "ordered": OrderedDict(a=1)}


@pytest.mark.parametrize("protocol", range(6))
def test_honest_pickles(protocol):
    data = pickle.dumps(CLIP, protocol)
    same(loads(data), original(data))
    if protocol < 4: same(loads(data.replace(b"numpy._core", b"numpy.core")), original(data))          # the old module name; from protocol 4 on names carry their length
    tensors = {"a": torch.arange(6.).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bool), "p": torch.nn.Parameter(torch.ones(2)), "s": torch.zeros(()), "e": torch.zeros(0, 3)}
    if protocol > 1: same(loads(pickle.dumps(tensors, protocol)), tensors)


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_honest_joblib(tmp_path, compress):
    joblib.dump(CLIP, tmp_path/"clip.pkl", compress=compress)
    same(load(tmp_path/"clip.pkl"), getattr(joblib, "load")(tmp_path/"clip.pkl"))


def test_honest_torch(tmp_path):
    kinds = {str(t): torch.ones(3).to(t) for t in (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64)}
    tensors = {**kinds, "view": torch.arange(12.).reshape(3, 4)[1:, ::2], "turned": torch.arange(6.).reshape(2, 3).T, "size": torch.zeros(2, 3).shape, "numbers": [1, 2.5, "x"]}
    torch.save(tensors, tmp_path/"clip.pt")
    same(load(tmp_path/"clip.pt"), {**tensors, "size": (2, 3)})
    torch.save(torch.arange(3).bfloat16(), tmp_path/"clip.pt")
    assert load(tmp_path/"clip.pt").tolist() == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(value=st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(allow_nan=False), st.text(max_size=300), st.binary(max_size=300)),
                          lambda x: st.one_of(st.lists(x, max_size=5), st.tuples(x, x), st.dictionaries(st.text(max_size=5), x, max_size=4)), max_leaves=20), protocol=st.integers(0, 5))
def test_any_plain_value(value, protocol):
    same(loads(pickle.dumps(value, protocol)), value)


def test_long_lists(tmp_path):
    "The proved fast path and the slow one agree."
    clip = {"fps": 30, "dof": np.random.default_rng(0).normal(size=(5000, 29)).tolist(), "names": ["hip", "knee"], "contacts": [[1, 0], [70_000, -3]]}
    for protocol in (0, 1, 2, 4, 5): same(loads(pickle.dumps(clip, protocol)), clip)
    clip["scale"] = np.float64(2)
    same(loads(pickle.dumps(clip, 2)), clip)


numbers = st.sampled_from(["<f4", "<f8", ">f8", "<i8", "|u1", "|b1", "<U3", "<c8"]).flatmap(lambda code: st.lists(st.integers(0, 5), min_size=1, max_size=5).map(lambda shape: np.resize(np.arange(7), shape).astype(code)))


@settings(max_examples=150, deadline=None)
@given(value=st.recursive(st.one_of(st.none(), st.integers(-2**40, 2**40), st.floats(allow_nan=False), st.text(max_size=300), numbers, numbers),
                          lambda x: st.one_of(st.lists(x, max_size=5), st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 300)), x, max_size=60)), max_leaves=40), long=st.sampled_from([0, 300, 70_000]))
def test_arrays_of_ours(value, long):
    "What `dump` writes is read by the fast path, memo, frames and all, and equal to what the slow path gives."
    again = np.arange(float(long))
    value = {"first": value, "again": [again, again], "then": value, "last": again}
    data = pickled(value)
    same(loads(data), value)
    same(_finish(_Reader(io.BytesIO(data), len(data)).load(), 10**9, {})[0], value)


def straddling(payload):
    "A text that begins in a frame of two bytes. In one buffer the text holds the payload; whoever drops the rest of the frame takes the next four bytes for the length, and runs it."
    k = len(payload) + 1 if len(payload) < 255 else (len(payload)//65_000 + 1) << 16        # the text's length
    inside = zeros(1) + (payload if k < 256 else b"x"*(k >> 8) + payload)
    inside += b"N"*(k - len(inside))
    return P4 + frame(2) + text("")[:1] + struct.pack("<I", k) + inside + b".", inside


@pytest.mark.parametrize("payload", {
    "a call": b"0cos\nsystem\n" + text("exit 3") + b"\x85R.", "2 GB by size": b"0cbuiltins\nbytearray\nJ" + struct.pack("<i", 2_000_000_000) + b"\x85R.", "a state for our function": b"0cnumpy\nndarray\nN}" + text("hello") + b"K\1s\x86b.",
    "a memo of 8 GB": b"0Nr\xf0\xff\xff\x3f.", "a deep tuple as key": b"0}N" + b"\x85"*600_000 + b"Ns."}.values())
def test_arguments_beyond_a_frame(reader, tmp_path, payload):
    "Scan and unpickler see the same opcodes: the payload is (bad) text, as for `pickle.loads`, and nothing of it runs."
    data, inside = straddling(payload)
    assert data[-1 - len(inside):-1] == inside and plain_until(data, len(data)) == len(data)
    if payload[:2] == b"0c":
        with pytest.raises(pickle.UnpicklingError, match="the name"): Names(io.BytesIO(data)).load()        # read from a file, frame by frame
    path = tmp_path/"straddling.pkl"
    path.write_bytes(data)
    assert "utf-8" in reader.ask(path)
    with pytest.raises(UnicodeDecodeError): pickle.loads(data)
    assert not vars(safe_plain._array)


class Names(pickle.Unpickler):
    "Proves that the straddling files part other readers: it looks no name up."
    def find_class(self, module, name): raise pickle.UnpicklingError(f"the name {name}")


PLAIN = {"STACK_GLOBAL", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "SHORT_BINBYTES", "BINBYTES", "PROTO", "FRAME", "STOP", "EMPTY_LIST", "EMPTY_DICT", "MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
         "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"}
frames = st.sampled_from([0, 1, 2, 3, 5, 9, 12, 30, 2**40]).map(frame)
pieces = st.one_of(frames, st.sampled_from([b"N", b"\x88", b"]", b"}", b"(", b"a", b"e", b"s", b"u", b"K\1", b"K\x95", b"M\x95\0", b"J\xff\xff\xff\x7f", b"G" + zeros(8), b"G" + frame(2)[:8], text("fps"), text(""), text("x"*70), b"\x8c\x03fps", b"\x8c\x01", b"X\x05", b"\x8a\x01\x05",
                                            b"q\0", b"h\0", b"\x94", b"r\1\0\0\0", b"j\1\0\0\0", OURS, OURS[:40], OURS[40:], OUR_ARRAY, b".", zeros(2), b"cos\nsystem\n", b"R", b"b", b"\x85"]))


@settings(max_examples=1500, deadline=None)
@given(parts=st.lists(pieces, max_size=14), protocol=st.sampled_from([2, 4, 5]))
def test_scan_and_unpickler_agree(parts, protocol):
    "Where the scan finds nothing but plain data, pickletools sees only harmless opcodes, and we read what `pickle.loads` reads."
    agree(bytes([0x80, protocol]) + b"".join(parts) + b".")


@settings(max_examples=300, deadline=None)
@given(value=st.dictionaries(st.text(max_size=5), st.one_of(st.lists(st.floats(allow_nan=False), max_size=5), st.text(max_size=80), numbers), max_size=5), at=st.lists(st.tuples(st.floats(0, 1), frames), max_size=3))
def test_frames_anywhere(value, at):
    data = pickled(value)
    for place, head in at: data = (cut := data[:2 + int(place*(len(data) - 2))]) + head + data[len(cut):]
    agree(data)


def agree(data):
    if plain_until(data, len(data)) != len(data): return
    seen = []
    try:
        for op, arg, _ in pickletools.genops(data): seen.append((op.name, arg))
    except ValueError: pass
    names = {n for n, _ in seen}
    assert names <= PLAIN
    for i, (n, _) in enumerate(seen):
        if n == "STACK_GLOBAL": assert [a for m, a in seen[:i] if m == "SHORT_BINUNICODE"][-2:] in (["numpy", "ndarray"], ["builtins", "bytearray"])
    try: ours = loads(data)
    except MotionFormatError: return
    same(ours, as_bytes(pickle.loads(data)))


def as_bytes(o):
    "The content of an array, got from the memo by hand, is bytes on the fast path."
    if isinstance(o, dict): return {k: as_bytes(v) for k, v in o.items()}
    return type(o)(map(as_bytes, o)) if isinstance(o, (list, tuple)) else bytes(o) if isinstance(o, bytearray) else o


@pytest.mark.parametrize("bomb", {
    "dicts": P4 + b"](" + b"}K\1NsNNN"*1_000_000 + b"e.", "lists": P4 + b"](" + b"]Na"*1_000_000 + b"e.", "nones": P4 + b"](" + b"N"*10_000_000 + b"e.", "in a few kB": zlib.compress(P4 + b"](" + b"}K\1NsNNN"*1_000_000 + b"e.", 9),
    "deep dicts": P4 + b"}K\1"*100_000 + b"N" + b"s"*100_000 + b".", "deep list as key": P4 + b"}" + b"]"*100_000 + b"a"*99_999 + b"Ns.", "deep lists": P4 + b"]"*100_000 + b"a"*99_999 + b"."}.values())
def test_bombs_of_plain_data(tmp_path, bomb):
    "What takes more memory than its length allows, or nests deeply, is refused by a child of its own, which lives."
    child, path = Reader(), tmp_path/"bomb.pkl"
    path.write_bytes(bomb)
    try:
        problem = child.ask(path)
        assert problem and "MemoryError" not in problem
    finally: child.process.kill()


def test_the_budget():
    "Over it, the fast path leaves the file to the slow one; honest files stay within."
    bomb = P4 + b"](" + b"}K\1NsNNN"*200_000 + b"e."
    assert read_plain(io.BytesIO(bomb), len(bomb)) is None
    rows = np.random.default_rng(0).normal(size=(200_000, 4)).tolist()
    for protocol in (2, 4, 5):
        data = pickle.dumps({"root_rot": rows, "again": rows}, protocol)
        assert plain_until(data, len(data)) == len(data)


def shared_lists(levels):
    "Lists that hold the one before twice: a few bytes, and a thousand paths for ten levels."
    return b"](K\0K\0eq\x80" + b"".join(b"](h" + bytes([0x80 + i]) + b"h" + bytes([0x80 + i]) + b"eq" + bytes([0x81 + i]) for i in range(levels - 1))


def test_no_item_of_an_array(reader, tmp_path):
    "An array cannot be the target of an opcode: numpy would walk every path through the lists that it is set to."
    array, path = OURS.replace(b"K\x01\x85", b"(" + b"K\1"*32 + b"t"), tmp_path/"items.pkl"
    for items in (b"Nh\x9fs", b"(Nh\x9fu", b"(h\x9fe", b"h\x9fa"):
        path.write_bytes(P4 + b"](" + shared_lists(32) + array + items + b"e.")
        data, problem = path.read_bytes(), reader.ask(path)
        assert plain_until(data, len(data)) == len(data) and "no readable" in problem and "MemoryError" not in problem


def test_nothing_is_kept_of_files():
    "What the fast path remembers between files does not grow with their content."
    for n in range(10, 99): loads(pickled({"x": np.array(["a"], f"<U{n}"), "y": np.zeros(n, "u1")}))
    assert safe_plain._code.cache_info().maxsize and safe_plain._patterns.cache_info().currsize <= 8


def test_arrays_of_ours_are_fast():
    contacts = {t: np.full((4, 3), t, np.float32) for t in range(400)}
    data = pickled({"walk": {"fps": 30, "dof": np.zeros((9000, 29)), "contact_points": contacts}})
    assert read_plain(io.BytesIO(data), len(data)) is not None


@pytest.mark.parametrize("data, says", {
    "other name": (OURS.replace(b"\x05numpy", b"\x05nampy"), "nampy.ndarray"), "function of the memo": (OUR_BYTES + OURS.replace(OUR_ARRAY, b"h\2"), "."), "too few bytes": (OURS.replace(b"K\x01\x85", b"K\x02\x85"), "another number"),
    "too many bytes": (OURS.replace(b"K\x01\x85", b"K\x00\x85"), "another number"), "negative": (OURS.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85"), "is no readable pickle|refused"), "objects": (OURS.replace(b"\x03<f4", b"\x03|O8"), "array of Python objects"),
    "no type": (OURS.replace(b"\x03<f4", b"\x03f,f"), "a data type"), "a billion empty texts": (OURS.replace(b"\x03<f4", b"\x03<U0").replace(b"C\4abcd", b"C\0").replace(b"K\1\x85", b"J\xff\xff\xff\x7f\x85"), "of nothing"), "an array as key": (b"}" + OURS + b"Ns", "is no readable pickle|refused"), "a function as key": (b"}(" + OURS + b"Nh\2Nu", "is no readable pickle|refused"), "a function": (b"](" + OURS + b"h\2e", "no data"),
    "a tuple as key": (b"}(K\1" + OURS + b"h\x0dNu", "is no readable pickle|refused"), "state": (OURS + b"}b", "is no readable pickle|refused")}.values())
def test_no_more_than_arrays(data, says):
    with pytest.raises(MotionFormatError, match=says): loads(b"\x80\4" + data + b".")
    with pytest.raises(MotionFormatError, match=says): loads(b"\x80\4]" + data + b"a.")


def test_nested_and_kept(tmp_path):
    "A pickle inside bytes (PARC) is read by `loads`, under the same rules; `kept` reads a file once, and again when it changed."
    path = tmp_path/"parc.pkl"
    path.write_bytes(pickle.dumps({"motion_data": pickle.dumps({"fps": 30}), "misc_data": pickle.dumps(Gadget(print, "never"))}))
    outer = load(path)
    assert loads(outer["motion_data"]) == {"fps": 30}
    with pytest.raises(MotionFormatError, match="parc.pkl: refused.*builtins.print"): loads(outer["misc_data"], path)
    with kept():
        assert load(path) is load(path)
        path.write_bytes(pickle.dumps({"fps": 60, "more": "x"}))
        assert load(path)["fps"] == 60
